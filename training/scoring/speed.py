"""How long a bundle takes for an image on this machine."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from model.bundle import Bundle
from model.predict import Precision, Predictor
from model.preprocess import to_tensor


@dataclass(frozen=True)
class Timing:
    """Milliseconds for one image: the median of some runs, and the span of the middle half of them."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """What one image costs."""

    device: str
    precision: str
    threads: int
    side: int
    network: Timing
    """The generator alone, tensor to tensor, side x side pixels."""
    whole: Timing
    """Frame to elastogram: scaling, network, colours at full size, self-check."""


def measure_speed(
    bundle: Bundle, *, side: int = 256, precision: Precision = "auto", runs: int = 30, seed: int = 0
) -> Speed:
    """Time a bundle on frames of noise, side x side pixels: what they show does not change what they cost.

    Raises what `Predictor` raises.
    """
    predictor = Predictor(bundle, device="auto", precision=precision)
    frame = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    network = bundle.build_generator().to(predictor.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    tensor = to_tensor(frame, bundle.preprocess).unsqueeze(0)
    if tensor.shape[-1] != side or tensor.shape[-2] != side:
        tensor = torch.nn.functional.interpolate(tensor, (side, side))
    tensor = tensor.to(predictor.device, memory_format=torch.channels_last)

    def generate() -> None:
        enabled = predictor.precision == "bf16"
        with torch.inference_mode(), torch.autocast(predictor.device, torch.bfloat16, enabled=enabled):
            network(tensor)
        if predictor.device == "cuda":
            torch.cuda.synchronize()

    return Speed(
        predictor.device,
        predictor.precision,
        torch.get_num_threads(),
        side,
        _time(generate, runs),
        _time(lambda: predictor.predict([frame]), runs),
    )


def _time(work: Callable[[], object], runs: int) -> Timing:
    for _ in range(3):  # what is compiled or cached at first is not what an image costs
        work()
    taken = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - started))
    low, median, high = statistics.quantiles(taken, n=4)
    return Timing(round(median, 2), round(low, 2), round(high, 2))
