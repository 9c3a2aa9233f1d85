"""One network on one device: frames to elastograms, batched; knows nothing of bundles."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.colormap import get_colormap, invert, overlay
from model.errors import ResultInvalid
from model.familiarity import FAMILIAR_FROM
from model.generator import Generator, GeneratorOutput
from model.preprocess import Frame, PreprocessSpec, to_frame, to_tensor

BATCH_SIZE = {"cpu": 1, "cuda": 16}
"""On a CPU a batch is no faster than its frames one by one, and one by one a frame's result
cannot depend on its neighbours."""

AGREEMENT_LIMIT = 0.1
"""Mean difference between the strain that the colours show and the strain itself from which they contradict
each other: a colour head can be off by 0.2 in a channel, a picture of another frame is by 0.2 and more."""

_AGREEMENT_SAMPLES = 8192

_AHEAD = {"cpu": 0, "cuda": 1}
"""Batches that are under way in the network while an earlier one is finished."""

_MOST_COMPOSERS = 8
"""Threads that bring results of a GPU to the size of their frames: some 10 ms each for a screen's width."""


@dataclass(frozen=True, eq=False)
class Elastogram:
    """The synthetic elastogram of one frame, at the frame's full size."""

    strain: NDArray[np.float32]
    """(H, W) in [0, 1]; 1 is soft, 0.5 about the mean of the frame."""
    colour: NDArray[np.uint8]
    """(H, W, 3) RGB, the colour E-mode laid over the B-mode."""
    agreement: float
    """Self-check: mean |strain read back from the colour - strain|; see AGREEMENT_LIMIT."""
    spread: NDArray[np.float32] | None = None
    """(H, W), the expected absolute error of `strain` at each pixel; None if the bundle cannot say."""
    familiarity: float | None = None
    """0 to 1, see `Familiarity.of`: about the share of breast frames that look at least as strange as this
    one; None if the bundle cannot say."""
    resembles: str | None = None
    """What an unfamiliar frame is most like, for people; None if it is familiar, or nobody can say."""
    confidence: float | None = None
    """0 to 1, see `Calibration.confidence_of`: expected NCC with the true strain; None if the bundle cannot
    say."""

    @property
    def unfamiliar(self) -> bool:
        """Does the frame look like something else than the model was made for? False if nobody can say."""
        return self.familiarity is not None and self.familiarity < FAMILIAR_FROM


class _Pass(NamedTuple):
    """What a batch comes to, on this side; `arrived` is when, or None if it is there."""

    output: GeneratorOutput
    arrived: torch.cuda.Event | None

    def wait(self) -> GeneratorOutput:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.output


class Inference:
    """A generator in evaluation mode, with the preprocessing that its weights expect."""

    def __init__(
        self,
        network: Generator,
        preprocess: PreprocessSpec,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """Take the network over: it is moved to the device, and in bf16 its weights are rounded for good."""
        self.device: Literal["cpu", "cuda"] = device
        self.precision: Literal["fp32", "bf16"] = precision
        self.preprocess = preprocess
        self.spec = network.spec
        self.colormap = get_colormap(network.spec.colormap, network.spec.colormap_version)
        placed = network.eval().to(device)
        self._network = placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if precision == "bf16":
            _cast_weights(self._network)
        # On a CPU the network needs the cores itself.
        self._composers: ThreadPoolExecutor | None = None
        if device == "cuda":
            cores = min(_MOST_COMPOSERS, len(os.sched_getaffinity(0)))
            self._composers = ThreadPoolExecutor(cores, thread_name_prefix="composer")

    def predict(self, frames: Sequence[Frame]) -> list[Elastogram]:
        """Return one elastogram for each frame uint8 (H, W); sizes may differ.

        Raises FrameTooSmall or FrameInvalid before anything is computed, ResultInvalid if the
        network's output is not finite.
        """
        tensors = [to_tensor(frame, self.preprocess) for frame in frames]
        results: list[Elastogram] = []
        size = BATCH_SIZE[self.device]
        under_way: deque[tuple[Sequence[Frame], _Pass]] = deque()
        for start in range(0, len(frames), size):
            under_way.append((frames[start : start + size], self._start(tensors[start : start + size])))
            # One batch ahead: a GPU works on the next one while these are brought to their size.
            if len(under_way) > _AHEAD[self.device]:
                results += self._finish(*under_way.popleft())
        while under_way:
            results += self._finish(*under_way.popleft())
        return results

    def _start(self, tensors: Sequence[torch.Tensor]) -> _Pass:
        """Send a batch through the network; on a GPU this returns before it is through."""
        batch = torch.stack(list(tensors)).contiguous(memory_format=torch.channels_last)
        if self.device == "cuda":
            # From page-locked memory the copies wait for nobody.
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        autocast: AbstractContextManager[None] = torch.autocast(
            self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )
        with torch.inference_mode(), autocast:
            output: GeneratorOutput = self._network(batch)
            parts = [part.float() for part in output]
            if self.device != "cuda":
                return _Pass(GeneratorOutput(*parts), None)
            here = [torch.empty(part.shape, pin_memory=True) for part in parts]
            for place, part in zip(here, parts, strict=True):
                place.copy_(part, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
            return _Pass(GeneratorOutput(*here), arrived)

    def _finish(self, frames: Sequence[Frame], passed: _Pass) -> list[Elastogram]:
        """Wait for a batch, and bring it to the sizes of its frames."""
        output = passed.wait()
        known = output if self.spec.uncertainty else output[:3]
        if not all(bool(torch.isfinite(part).all()) for part in known):
            raise ResultInvalid(f"on {self.device} in {self.precision}", device=self.device)
        return self.each(self._compose, frames, repeat(output), range(len(frames)))

    def each(self, work: Callable[..., Elastogram], *columns: Iterable[Any]) -> list[Elastogram]:
        """Call `work` for each row of columns: side by side where the network leaves the cores free."""
        return list(map(work, *columns) if self._composers is None else self._composers.map(work, *columns))

    def _compose(self, frame: Frame, output: GeneratorOutput, i: int) -> Elastogram:
        """Bring both heads to the frame's size; B-mode detail comes from the frame itself."""
        spec, generator = self.preprocess, self.spec
        shape = (frame.shape[0], frame.shape[1])
        strain = np.clip(to_frame(output.strain[i, 0], shape, spec), 0.0, 1.0)
        if generator.colour_mode == "literal":
            channels = [to_frame(output.colour[i, c], shape, spec) for c in range(3)]
            colour = np.round(np.clip(np.stack(channels, axis=-1), 0, 1) * 255).astype(np.uint8)
        else:
            residual = [to_frame(output.residual[i, c], shape, spec) for c in range(3)]
            colour = overlay(strain, frame, self.colormap, generator.alpha, residual)
        spread = to_frame(output.spread[i, 0], shape, spec) if generator.uncertainty else None
        return Elastogram(strain, colour, self._agreement(strain, colour), spread)

    def _agreement(self, strain: NDArray[np.float32], colour: NDArray[np.uint8]) -> float:
        """Read strain back from a regular sample of the colour picture and compare."""
        step = max(1, int(np.sqrt(strain.size / _AGREEMENT_SAMPLES)))
        sample = np.ascontiguousarray(colour[::step, ::step])
        recovered = invert(sample, self.colormap, self.spec.alpha)
        return float(np.abs(recovered - strain[::step, ::step]).mean())


def _cast_weights(network: nn.Module) -> None:
    """Bring to bf16 once the weights that autocast would bring there at every pass, to the same values."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(torch.bfloat16)
