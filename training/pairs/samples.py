"""Pairs at network size, held in memory as bytes, and the batches drawn from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from model.preprocess import PreprocessSpec, place, to_tensor
from training.pairs.folder import read_pair
from training.pairs.pair import Pair


@dataclass(frozen=True, eq=False)
class Samples:
    """All pairs of a set, each tensor uint8 (N, 1, height, width)."""

    bmode: torch.Tensor
    strain: torch.Tensor
    lesion: torch.Tensor
    covered: torch.Tensor
    """1 where the frame lies, 0 in the padding."""

    def __len__(self) -> int:
        return len(self.bmode)


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of float32 tensors (N, 1, height, width)."""

    bmode: torch.Tensor
    """[-1, 1], as `to_tensor` gives it, then augmented."""
    strain: torch.Tensor
    lesion: torch.Tensor
    covered: torch.Tensor


def load_samples(files: Sequence[Path], spec: PreprocessSpec) -> Iterator[tuple[int, Samples]]:
    """Read pairs one by one; yields (how many are read, the growing set) for progress bars."""
    n = len(files)
    empty = [torch.zeros((n, 1, spec.height, spec.width), dtype=torch.uint8) for _ in range(4)]
    samples = Samples(*empty)
    for i, file in enumerate(files):
        _fill(samples, i, read_pair(file), spec)
        yield i + 1, samples


def load_all(files: Sequence[Path], spec: PreprocessSpec) -> Samples:
    """Read every pair of a list of files."""
    samples = Samples(*(torch.zeros((0, 1, spec.height, spec.width), dtype=torch.uint8) for _ in range(4)))
    for _, samples in load_samples(files, spec):  # noqa: B007 - the last one is whole
        pass
    return samples


def _fill(samples: Samples, i: int, pair: Pair, spec: PreprocessSpec) -> None:
    at = place((pair.bmode.shape[0], pair.bmode.shape[1]), spec)
    # to_tensor maps bytes to [-1, 1] in equal steps, so bytes hold it without loss.
    scaled = to_tensor(pair.bmode, spec)
    samples.bmode[i] = ((scaled + 1.0) * 127.5).round().to(torch.uint8)

    def shrink(image: np.ndarray) -> torch.Tensor:
        resized = cv2.resize(image, (at.width, at.height), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(np.round(resized * 255).astype(np.uint8))

    samples.strain[i, 0, at.rows, at.columns] = shrink(pair.strain)
    if pair.mask is not None:
        samples.lesion[i, 0, at.rows, at.columns] = (shrink(pair.mask.astype(np.float32)) > 127).byte()
    samples.covered[i, 0, at.rows, at.columns] = 1


def draw_batch(samples: Samples, index: torch.Tensor, rng: torch.Generator | None) -> Batch:
    """Take the pairs of one batch; with `rng`, flip pairs and change the grey curve of B-mode alone."""
    bmode = samples.bmode[index].float() / 255.0
    covered = samples.covered[index].float()
    parts = [bmode, samples.strain[index].float() / 255.0, samples.lesion[index].float(), covered]
    if rng is not None:
        n = len(index)
        # One draw for the pair: flipping B-mode and strain apart would misalign them.
        flip = torch.rand((n, 1, 1, 1), generator=rng) < 0.5
        parts = [torch.where(flip, part.flip(-1), part) for part in parts]

        def uniform(low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand((n, 1, 1, 1), generator=rng)

        # What scanners change and tissue does not: speckle reduction, grey curve, contrast, gain, TGC.
        blurred = functional.avg_pool2d(parts[0], 3, stride=1, padding=1, count_include_pad=False)
        bmode = parts[0].lerp(blurred, uniform(0.0, 1.0)).clamp_min(1e-4) ** uniform(0.7, 1.4)
        ramp = torch.linspace(-0.5, 0.5, bmode.shape[2]).view(1, 1, -1, 1) * uniform(-0.3, 0.3)
        bmode = ((bmode - 0.4) * uniform(0.75, 1.25) + 0.4 + uniform(-0.12, 0.12) + ramp).clamp(0.0, 1.0)
        parts[0] = torch.where(parts[3] > 0, bmode, parts[0])
    return Batch(parts[0] * 2.0 - 1.0, *parts[1:])


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of samples in one epoch: a function of seed and epoch, so that resuming needs no state."""
    return torch.randperm(n, generator=step_rng(seed, epoch, 0))


def step_rng(seed: int, epoch: int, step: int) -> torch.Generator:
    """Random numbers of one training step, the same however often training was interrupted."""
    state = np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & 0x7FFF_FFFF_FFFF_FFFF)
