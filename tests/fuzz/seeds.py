"""Sound files to start from, and where their elements are."""

from __future__ import annotations

import io
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from peers.still import breast_still, region, speckle

LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF
_LARGEST_REAL_FILE = 1 << 20


@dataclass(frozen=True)
class Element:
    """Where one top-level element of a file is. `vr` is empty in Implicit VR."""

    tag: int
    vr: bytes
    at: int
    length_at: int
    length_size: int
    value_at: int
    length: int

    @property
    def end(self) -> int:
        """Where the next one begins; the value's own beginning where the length is undefined."""
        return self.value_at + (0 if self.length == UNDEFINED else self.length)


@dataclass(frozen=True)
class Seed:
    """A sound file. `slow` ones are decoded in a process of their own, which costs half a second each."""

    name: str
    content: bytes
    syntax: str

    @property
    def explicit(self) -> bool:
        """Does the data set name its VRs?"""
        return self.syntax != ImplicitVRLittleEndian

    @property
    def order(self) -> str:
        """Byte order, as `struct` writes it."""
        return ">" if self.syntax == ExplicitVRBigEndian else "<"

    @property
    def slow(self) -> bool:
        """Is it decoded in a process of its own?"""
        return self.syntax in (JPEGLSLossless, JPEGLSNearLossless, JPEGLossless, JPEGLosslessSV1)

    @property
    def dataset_at(self) -> int:
        """Where the data set begins, after the file meta information."""
        return 144 + int(struct.unpack_from("<L", self.content, 140)[0])

    @cached_property
    def elements(self) -> tuple[Element, ...]:
        """Top-level elements up to the pixels."""
        return tuple(self._walk())

    def element(self, tag: int) -> Element | None:
        """The element with this tag."""
        return next((element for element in self.elements if element.tag == tag), None)

    def encoded(self, tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
        """One element as this file would write it; `length` is what it claims."""
        claimed = len(value) if length is None else length
        name = struct.pack(f"{self.order}HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit:
            return name + struct.pack(f"{self.order}L", claimed) + value
        if vr in LONG_VRS:
            return name + vr + b"\0\0" + struct.pack(f"{self.order}L", claimed) + value
        return name + vr + struct.pack(f"{self.order}H", claimed & 0xFFFF) + value

    def item(self, content: bytes, *, undefined: bool = False) -> bytes:
        """One item of a sequence."""
        start = struct.pack(f"{self.order}HHL", 0xFFFE, 0xE000, UNDEFINED if undefined else len(content))
        return start + content + (self.end_of_item if undefined else b"")

    @property
    def end_of_item(self) -> bytes:
        """Item Delimitation Item."""
        return struct.pack(f"{self.order}HHL", 0xFFFE, 0xE00D, 0)

    @property
    def end_of_sequence(self) -> bytes:
        """Sequence Delimitation Item."""
        return struct.pack(f"{self.order}HHL", 0xFFFE, 0xE0DD, 0)

    def with_element(self, tag: int, encoded: bytes) -> bytes:
        """The file with this element in the place of its own, or put in where it belongs."""
        old = self.element(tag)
        if old is not None and old.length != UNDEFINED:
            return self.content[: old.at] + encoded + self.content[old.end :]
        at = next((e.at for e in self.elements if e.tag >= tag), len(self.content))
        return self.content[:at] + encoded + self.content[at:]

    def _walk(self) -> Iterator[Element]:
        at, content = self.dataset_at, self.content
        while at + 8 <= len(content):
            group, number = struct.unpack_from(f"{self.order}HH", content, at)
            tag, vr = group << 16 | number, b""
            length_at, size = at + 4, 4
            if self.explicit:
                vr = content[at + 4 : at + 6]
                length_at, size = (at + 8, 4) if vr in LONG_VRS else (at + 6, 2)
            (length,) = struct.unpack_from(f"{self.order}{'L' if size == 4 else 'H'}", content, length_at)
            element = Element(tag, vr, at, length_at, size, length_at + size, length)
            yield element
            # What follows an element of undefined length is found by its end mark.
            if length == UNDEFINED:
                end = content.find(self.end_of_sequence, element.value_at)
                if tag >= 0x7FE00010 or end < 0:
                    return
                at = end + 8
            else:
                at = element.end
            if tag >= 0x7FE00010:
                return


def made() -> Iterator[Seed]:
    """One for every transfer syntax that the node takes, and for the photometric interpretations."""
    shapes: dict[str, dict[str, object]] = {
        "explicit": {"transfer_syntax": ExplicitVRLittleEndian},
        "implicit": {"transfer_syntax": ImplicitVRLittleEndian},
        "big-endian": {"transfer_syntax": ExplicitVRBigEndian},
        "rgb": {"photometric": "RGB"},
        "ybr-422": {"photometric": "YBR_FULL_422"},
        "palette": {"photometric": "PALETTE COLOR"},
        "monochrome1": {"photometric": "MONOCHROME1"},
        "cine": {"frames": 3},
        "rle": {"transfer_syntax": RLELossless},
        "rle-rgb": {"transfer_syntax": RLELossless, "photometric": "RGB"},
        "jpeg": {"transfer_syntax": JPEGBaseline8Bit},
        "jpeg-ybr": {"transfer_syntax": JPEGBaseline8Bit, "photometric": "YBR_FULL_422"},
        "jpeg-cine": {"transfer_syntax": JPEGBaseline8Bit, "frames": 3},
        "j2k-lossless": {"transfer_syntax": JPEG2000Lossless},
        "j2k": {"transfer_syntax": JPEG2000},
        "jls-lossless": {"transfer_syntax": JPEGLSLossless},
        "jls": {"transfer_syntax": JPEGLSNearLossless},
    }
    still = speckle(112, 144, 1)
    for name, options in shapes.items():
        pixels = {} if "frames" in options else {"pixels": still}
        ds = breast_still(
            rows=112,
            columns=144,
            regions=[region((0, 0, 144, 112))],
            **pixels,
            **options,  # type: ignore[arg-type]
        )
        buffer = io.BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        yield Seed(f"made {name}", buffer.getvalue(), str(ds.file_meta.TransferSyntaxUID))
    yield from _jpeg_lossless()


def _jpeg_lossless() -> Iterator[Seed]:
    """Nothing installed writes JPEG Lossless, but an installed sample holds it."""
    path = get_testdata_file("JPEG-LL.dcm", download=False)
    if path is None:
        return
    sample = dcmread(path)
    ds = breast_still(pixels=np.zeros((int(sample.Rows), int(sample.Columns)), np.uint8))
    for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(ds, keyword, sample[keyword].value)
    ds.file_meta.TransferSyntaxUID = sample.file_meta.TransferSyntaxUID
    ds.PixelData = sample.PixelData
    ds["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    yield Seed("made jpeg-lossless", buffer.getvalue(), str(ds.file_meta.TransferSyntaxUID))


def real() -> Iterator[Seed]:
    """Real ultrasound files of moderate size, where there are any."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("EMODE_REAL_DATA", beside)) / "us-dicom"
    for path in sorted(folder.glob("*.dcm")):
        if path.stat().st_size <= _LARGEST_REAL_FILE:
            content = path.read_bytes()
            with tempfile.TemporaryFile() as file:
                file.write(content)
                file.seek(0)
                meta = dcmread(file, stop_before_pixels=True, specific_tags=[]).file_meta
            if content[128:132] == b"DICM":
                yield Seed(f"real {path.name}", content, str(meta.TransferSyntaxUID))
