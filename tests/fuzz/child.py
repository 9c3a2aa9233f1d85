"""The process that reads hostile files as the node does, and can die of them.

Protocol: one path a line on standard input; one JSON object a line on standard output:
{"outcome", "error", "cpu_s", "mib"}. `error` is there if something came out that must not.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicom_node.core.errors import NodeError
from dicom_node.core.image import Arrival
from dicom_node.core.rules import Route
from dicom_node.dicom.header import read_header
from dicom_node.dicom.label import LabelSettings
from dicom_node.dicom.part10 import dataset_offset
from dicom_node.dicom.reading import ReadLimits, read_image
from dicom_node.dicom.results import BundleFacts, Equipment, ResultSettings, write_result
from dicom_node.dicom.skip import Skip
from dicom_node.store.files import digest_from
from dicom_node.telemetry.log import set_up_logging
from dicom_node.work.make import Appearance, Model, make_results
from dicom_node.work.receive import judge_arrival

ADDRESS_SPACE = 4 << 30
"""Bytes after which the process gets no more: protects the machine; what counts is the resident peak."""


@dataclass(frozen=True)
class _Tinted:
    strain: NDArray[np.float32]
    colour: NDArray[np.uint8]
    familiarity: float | None = None
    unfamiliar: bool = False
    resembles: str | None = None
    confidence: float | None = None


class _Tint:
    """Stands where the network is: the path of the bytes is under test, not the picture."""

    def predict(self, frames: Sequence[NDArray[np.uint8]]) -> list[_Tinted]:
        return [
            _Tinted(frame.astype(np.float32) / 255, np.stack([frame, frame, 255 - frame], axis=-1))
            for frame in frames
        ]


_ROUTES = (Route("all", "EMODE", "default", ("archive",)),)
_MODEL = Model(
    _Tint(),
    BundleFacts("fuzz", "1", "0" * 64, "grey-1", trained_on_simulation=True),
    np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1),
)
_APPEARANCE = Appearance(LabelSettings(), ResultSettings(), Equipment("1", "1"))
_LIMITS = ReadLimits(max_pixels=4096 * 4096)


def read_as_the_node_does(path: Path) -> str:
    """Receiver, then worker; how it ended. Raises only what must not be raised."""
    try:
        header = read_header(path)
        judge_arrival(_ROUTES, header, Arrival("FUZZ", "EMODE", "127.0.0.1"))
        digest_from(path, dataset_offset(path), header.transfer_syntax_uid)
    except NodeError as error:
        str(error)
        return f"refused {error.code}"
    try:
        image = read_image(path, _LIMITS)
        if isinstance(image, Skip):
            return f"skip {image.code.value}"
        elastograms = _MODEL.predictor.predict([pane.grey for pane in image.panes])
        for made in make_results(
            path, image, elastograms, _MODEL, _APPEARANCE, created_at=datetime(2026, 1, 2, tzinfo=UTC)
        ):
            write_result(made.dataset, BytesIO())
    except NodeError as error:
        return f"failed {error.code}"
    return "result"


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Serve paths until standard input ends."""
    set_up_logging("error", "json")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a decoder in C prints must not come between
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        _forget_peak()
        before, started = _peak_mib(), time.process_time()
        answer: dict[str, object] = {}
        try:
            answer["outcome"] = read_as_the_node_does(path)
        except Exception as error:  # noqa: BLE001 - that is what is being looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "dicom_node" in f.filename][-1]
            answer["outcome"] = "FOREIGN"
            answer["error"] = (
                f"{type(error).__name__}: {str(error)[:120]} at {Path(ours.filename).name}:{ours.lineno}, "
                f"raised in {Path(place.filename).name}:{place.lineno}"
            )
        answer["cpu_s"] = time.process_time() - started
        answer["mib"] = max(0.0, _peak_mib() - before)
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
