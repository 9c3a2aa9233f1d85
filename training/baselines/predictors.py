"""Baselines as what gives elastograms for frames, so that they are scored like a bundle."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.colormap import get_colormap, invert, overlay
from model.generator import GeneratorSpec
from model.inference import Elastogram
from model.preprocess import Frame, PreprocessSpec, to_frame, to_tensor
from training.baselines.pix2pix import Pix2PixGenerator
from training.scoring.references import stretch

Map = NDArray[np.float32]


class MeanMapPredictor:
    """The mean of the training strain, whatever the image."""

    def __init__(self, mean: Map, spec: GeneratorSpec) -> None:
        self.mean, self.alpha = mean, spec.alpha
        self.colormap = get_colormap(spec.colormap, spec.colormap_version)

    def predict(self, frames: Sequence[Frame]) -> list[Elastogram]:
        made = []
        for frame in frames:
            strain = stretch(self.mean, (frame.shape[0], frame.shape[1]))
            made.append(Elastogram(strain, overlay(strain, frame, self.colormap, self.alpha), 0.0))
        return made


class Pix2PixPredictor:
    """Colour drawn by pix2pix, and the strain that it shows.

    As published, dropout stays on and batch norm takes the statistics of the image itself; dropout's
    seed is fixed, so that the same frame gives the same picture.
    """

    def __init__(
        self,
        generator: Pix2PixGenerator,
        preprocess: PreprocessSpec,
        spec: GeneratorSpec,
        device: torch.device,
    ) -> None:
        self.generator = generator.to(device).train()
        self.preprocess, self.alpha, self.device = preprocess, spec.alpha, device
        self.colormap = get_colormap(spec.colormap, spec.colormap_version)

    def predict(self, frames: Sequence[Frame]) -> list[Elastogram]:
        return [self._predict(frame) for frame in frames]

    @torch.no_grad()
    def _predict(self, frame: Frame) -> Elastogram:
        x = to_tensor(frame, self.preprocess).unsqueeze(0).to(self.device)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            made = (self.generator(x)[0].float().cpu() + 1) / 2
        shape = (frame.shape[0], frame.shape[1])
        channels = np.stack([to_frame(channel, shape, self.preprocess) for channel in made], axis=-1)
        colour = np.round(np.clip(channels, 0.0, 1.0) * 255).astype(np.uint8)
        return Elastogram(invert(colour, self.colormap, self.alpha), colour, 0.0)
