"""The whole pipeline on a GPU beside the generator alone: how much of it reading and drawing leave idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from os import sched_getaffinity
from pathlib import Path

import torch

from bench.figures import Figure, Sample, rates
from bench.objects import STILL, Template, fresh
from dicom_node.dicom.label import LabelSettings
from dicom_node.dicom.reading import SourceImage, read_image
from dicom_node.dicom.results import BundleFacts, Equipment, ResultSettings, write_result
from dicom_node.work.make import Appearance, Elastogram, Model, make_results
from model.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from model.predict import Predictor
from peers.still import speckle

NOT_MEASURED = "Not measured: no CUDA device was found on this machine."

_BATCHES = (8, 16, 32, 64, 128, 256)
_SIDE = 256
_IMAGES = 200
_FRAMES = 500
_AT_ONCE = 32
"""Images that are read, and then go through the network together."""


def measure(folder: Path, rounds: int) -> Iterator[Figure]:
    """All figures of this part; none where there is no GPU."""
    if not torch.cuda.is_available():
        return
    bundle = read_bundle(DEFAULT_BUNDLE)
    predictor = Predictor(bundle, device="cuda")
    side = bundle.preprocess.height
    at_256, at_own = (
        Sample(tuple(best_rate(bundle, s, predictor.precision) for _ in range(rounds))) for s in (_SIDE, side)
    )
    yield Figure(f"bare generator, {_SIDE} x {_SIDE}, best batch", at_256, "images/s", 5000)
    yield Figure(
        "decode + preprocess + generator + compose + encode",
        rates(_IMAGES, [through(folder, predictor, _IMAGES) for _ in range(rounds)]),
        "images/s",
        0.8,
        against=at_own,
        peer=f"bare generator, {side} x {side}, best batch:",
    )
    cine = [speckle(400, 480)] * _FRAMES
    predictor.predict(cine[:_AT_ONCE])
    seconds = tuple(_seconds(lambda: predictor.predict(cine)) for _ in range(rounds))
    yield Figure(f"cine of {_FRAMES} frames, every frame through the model", Sample(seconds), "s", 2.0, "<=")


def best_rate(
    bundle: Bundle, side: int, precision: str, device: str = "cuda", batches: Sequence[int] = _BATCHES
) -> float:
    """Images a second of the generator alone, tensor to tensor on the device, at its best batch."""
    network = bundle.build_generator().eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return max(_rate(network, batch, side, precision, device) for batch in batches)


def _rate(network: torch.nn.Module, batch: int, side: int, precision: str, device: str) -> float:
    tensor = torch.rand(batch, 1, side, side, device=device) * 2 - 1
    tensor = tensor.contiguous(memory_format=torch.channels_last)

    def passes(count: int) -> None:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            for _ in range(count):
                network(tensor)
        if device == "cuda":
            torch.cuda.synchronize()

    passes(3)
    count = max(3, 256 // batch) if device == "cuda" else 1
    return batch * count / _seconds(lambda: passes(count))


def through(folder: Path, predictor: Predictor, images: int) -> float:
    """Seconds for files of stills to become files of results; the caches of the disk are warm."""
    bundle = predictor.bundle
    facts = BundleFacts(bundle.name, bundle.version, bundle.weights_sha256, "c-1", trained_on_simulation=True)
    model = Model(predictor, facts, bundle.colormap.table)
    appearance = Appearance(LabelSettings(), ResultSettings(), Equipment("1", "1"))
    written = folder / "results"
    written.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)

    def make(path: Path, image: SourceImage, elastogram: Elastogram) -> None:
        for made in make_results(path, image, [elastogram], model, appearance, created_at=now):
            write_result(made.dataset, written / f"{made.identity.sop_instance_uid}.dcm")

    def work(files: Sequence[Path]) -> None:
        with ThreadPoolExecutor(len(sched_getaffinity(0))) as helpers:
            reading = [helpers.submit(read_image, path) for path in files]
            making = []
            for start in range(0, len(files), _AT_ONCE):
                read = [future.result() for future in reading[start : start + _AT_ONCE]]
                found = [image for image in read if isinstance(image, SourceImage)]
                assert len(found) == len(read), "a still of the bench was not taken"
                elastograms = predictor.predict([image.panes[0].grey for image in found])
                making += [
                    helpers.submit(make, *one)
                    for one in zip(files[start : start + _AT_ONCE], found, elastograms, strict=True)
                ]
            for future in making:
                future.result()

    with fresh(folder, (Template(STILL), images)) as (files,):
        work(files[:2])
        seconds = _seconds(lambda: work(files))
    for path in written.iterdir():
        path.unlink()
    return seconds


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
