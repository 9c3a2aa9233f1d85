"""Files to send: the same picture under ever new UIDs, made faster than anybody can send them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from peers.still import US_MULTIFRAME, breast_still, speckle

_PLACE = b"2.25.%030d"
_FIRST = 10**29 + 2
_numbers = itertools.count(_FIRST)


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of object: uncompressed, as ultrasound stills and cines mostly are."""

    name: str
    rows: int
    columns: int
    samples: int = 1
    frames: int = 1


LARGE = Kind("2.36 MB stills", 768, 1024, samples=3)
SMALL = Kind("0.19 MB stills", 400, 480)
CINE = Kind("8 MB cines", 400, 480, frames=42)
LONG_CINE = Kind("208 MB cine", 768, 1024, samples=3, frames=88)
STILL = Kind("0.79 MB stills", 768, 1024)


class Template:
    """An encoded object in which the UIDs can be replaced in place."""

    def __init__(self, kind: Kind) -> None:
        """Draw and encode it once."""
        self.kind = kind
        ds = breast_still(rows=kind.rows, columns=kind.columns, transfer_syntax=ExplicitVRLittleEndian)
        pixels = speckle(kind.rows, kind.columns)
        if kind.samples == 3:
            ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.PlanarConfiguration = "RGB", 3, 0
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        if kind.frames > 1:
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = US_MULTIFRAME
            ds.NumberOfFrames = kind.frames
            pixels = np.repeat(pixels[None], kind.frames, axis=0)
        ds.PixelData = pixels.tobytes()
        self._instance, self._study = _PLACE % (_FIRST - 1), _PLACE % (_FIRST - 2)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = self._instance.decode()
        ds.StudyInstanceUID = self._study.decode()
        buffer = BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        self._encoded = buffer.getvalue()

    def write(self, folder: Path, count: int, study: bytes) -> list[Path]:
        """Write `count` new objects of one study."""
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        # The pixels differ in their last bytes: archives that know content by its digest get no present.
        head = self._encoded.replace(self._study, study)
        for _ in range(count):
            number = next(_numbers)
            path = folder / f"{number}.dcm"
            path.write_bytes(
                head.replace(self._instance, _PLACE % number)[:-16] + b"%016d" % (number % 10**16)
            )
            files.append(path)
        return files


@contextmanager
def fresh(folder: Path, *wanted: tuple[Template, int]) -> Iterator[list[list[Path]]]:
    """New files of each template, all of one study; removed at the end."""
    place = folder / f"send-{next(_numbers)}"
    study = _PLACE % next(_numbers)
    try:
        yield [template.write(place / str(n), count, study) for n, (template, count) in enumerate(wanted)]
    finally:
        shutil.rmtree(place, ignore_errors=True)
