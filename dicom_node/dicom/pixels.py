"""One frame of a received file as grey or RGB bytes, or a reason why not."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.core.errors import DecodingInterrupted, PixelsUnreadable
from dicom_node.dicom.header import (
    BoundedReader,
    number,
    pydicom_quiet,
    text,
    whole_number,
)
from dicom_node.dicom.isolated import ISOLATED_PLUGINS, decode_isolated, is_lost_memory_error
from dicom_node.dicom.palette import through_palette
from dicom_node.dicom.services import DECODERS, UNCOMPRESSED

Bytes = NDArray[np.uint8]

_PIXEL_DATA = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
_SIZ = b"\xff\x4f\xff\x51"
_START_OF_SCAN = b"\xff\xda"
_MOST_COMPONENTS, _MOST_TILES = 4, 4096
"""Of one JPEG 2000 stream. Decoders make room for each before they read any."""
_MOST_SCANS = 100
"""Of one JPEG stream. Baseline has one for each colour at most, progressive about ten."""
_COLOURS = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_420", "YBR_PARTIAL_422"}


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """What the header says about the pixels (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    photometric: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame. YBR_FULL_422 keeps two of every four chroma samples."""
        whole = self.rows * self.columns * self.samples * self.allocated // 8
        return whole * 2 // 3 if self.photometric == "YBR_FULL_422" else whole


def layout_of(ds: Dataset, max_pixels: int) -> PixelLayout:
    """Read and check the layout.

    max_pixels  rows x columns above which nothing is decoded.

    Raises PixelsUnreadable if the header lacks a fact, or claims what no ultrasound scanner makes.
    """
    rows, columns = whole_number(ds, "Rows") or 0, whole_number(ds, "Columns") or 0
    if rows < 1 or columns < 1:
        raise PixelsUnreadable("the header gives no rows or no columns")
    if rows * columns > max_pixels:
        raise PixelsUnreadable(f"the header claims {columns} x {rows} pixels; the limit is {max_pixels}")
    samples = whole_number(ds, "SamplesPerPixel") or 1
    allocated = whole_number(ds, "BitsAllocated") or 0
    stored = whole_number(ds, "BitsStored") or allocated
    photometric = text(ds, "PhotometricInterpretation").upper()
    known = photometric in _COLOURS if samples == 3 else photometric.startswith(("MONOCHROME", "PALETTE"))
    if samples not in (1, 3) or not known:
        raise PixelsUnreadable(f"{samples} sample(s) per pixel of this photometric interpretation")
    if allocated not in (8, 16) or not 2 <= stored <= allocated or (samples == 3 and allocated != 8):
        raise PixelsUnreadable(f"{allocated} bits allocated, {stored} stored, {samples} sample(s) per pixel")
    return PixelLayout(
        rows=rows,
        columns=columns,
        frames=max(1, whole_number(ds, "NumberOfFrames") or 1),
        samples=samples,
        allocated=allocated,
        stored=stored,
        signed=whole_number(ds, "PixelRepresentation") == 1,
        photometric=photometric,
    )


def decode_frame(file: BoundedReader, ds: Dataset, layout: PixelLayout, index: int) -> Bytes:
    """Decode frame `index` (from 0) and nothing else.

    file    as `read_dataset` left it: at the pixel element.
    return  uint8 (H, W) grey, or (H, W, 3) RGB; bright is bright whatever the photometric interpretation.

    The same bytes give the same array: the plug-in is named by `services.DECODERS`, not found.
    Raises PixelsUnreadable if the image is at fault, and nothing else for that. DecodingInterrupted, OSError
    or MemoryError: this machine is, and another time it may go well.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    if syntax not in UNCOMPRESSED and syntax not in DECODERS:
        raise PixelsUnreadable(f"nothing on this node decodes transfer syntax {syntax[:64]}")
    little_endian, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    offset, length = _pixel_element(file, little_endian=little_endian, implicit=implicit)
    if syntax in UNCOMPRESSED:
        _check_room(length, file.size - offset, layout)
    else:
        _check_codestream(file, offset, layout, index)
    plugin = DECODERS.get(syntax, "")
    try:
        with pydicom_quiet():
            if plugin in ISOLATED_PLUGINS:
                stored = decode_isolated(file.path, index, plugin)
            else:
                stored = pixel_array(file, index=index, decoding_plugin=plugin)
            rgb_or_grey = _displayed(stored, ds, layout, little_endian=little_endian)
    except (PixelsUnreadable, DecodingInterrupted):
        raise
    # Boundary: each decoder raises its own errors; every one but the machine's own means the same here.
    except Exception as error:  # noqa: BLE001
        file.raise_trouble(error)
        if is_lost_memory_error(error, plugin):
            raise MemoryError from None
        raise PixelsUnreadable(
            f"{plugin or 'pydicom'} cannot decode frame {index + 1} ({type(error).__name__})"
        ) from None
    if rgb_or_grey.shape[:2] != (layout.rows, layout.columns):
        raise PixelsUnreadable("the decoded frame is not of the size that the header gives")
    return rgb_or_grey


def luma(frame: Bytes) -> Bytes:
    """Reduce RGB (H, W, 3) to grey (H, W); grey comes back unchanged.

    Rec. 601 weights in 16-bit fixed point, rounded half up: the weights sum to exactly 65536, so that
    R = G = B gives that value back, and no library's rounding can change the network's input.
    """
    if frame.ndim == 2:
        return frame
    red, green, blue = cv2.split(frame)
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return np.asarray(red, dtype=np.uint8)  # most scanners store grey images so
    # Whole numbers under 2 ** 24, which float32 holds exactly, in whatever order they are added.
    warm = cv2.addWeighted(red, 19595, green, 38470, 32768, dtype=cv2.CV_32F)
    summed: NDArray[np.float32] = np.asarray(warm, dtype=np.float32)
    summed += np.asarray(blue) * np.float32(7471)
    summed *= np.float32(1 / 65536)
    return summed.astype(np.uint8)


def _pixel_element(file: BoundedReader, *, little_endian: bool, implicit: bool) -> tuple[int, int]:
    """Where the value of the pixel element begins, and how long it claims to be."""
    order = "<" if little_endian else ">"
    head = file.read(8)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != _PIXEL_DATA:
        raise PixelsUnreadable("there is no pixel data element")
    lengths = head[4:] if implicit else file.read(4)
    if len(lengths) < 4:
        raise PixelsUnreadable("the file ends inside the pixel data element")
    (length,) = struct.unpack(f"{order}L", lengths)
    if length == 0:
        raise PixelsUnreadable("the pixel data element is empty")
    return file.tell(), length


def _check_room(length: int, available: int, layout: PixelLayout) -> None:
    """Raise PixelsUnreadable unless all the frames can be there."""
    needed = layout.frame_bytes * layout.frames
    if length == _UNDEFINED:
        raise PixelsUnreadable("uncompressed pixel data of undefined length")
    if min(length, available) < needed:
        raise PixelsUnreadable(
            f"the pixel data ends after {min(length, available)} of {needed} bytes; the file is truncated"
        )


def _check_codestream(file: BoundedReader, offset: int, layout: PixelLayout, index: int) -> None:
    """Raise PixelsUnreadable if the compressed frame is missing, or is of another size than the header's.

    Decoders make room for the size in the stream, which the limit on the header's size does not cover.
    """
    file.seek(offset)
    try:
        stream = get_frame(file, index, number_of_frames=layout.frames)
    # Boundary: the framing of a compressed element (PS3.5 A.4) can be broken in any way.
    except Exception as error:  # noqa: BLE001
        file.raise_trouble(error)
        raise PixelsUnreadable(f"frame {index + 1} is not in the file ({type(error).__name__})") from None
    file.raise_trouble()
    # Each scan goes over the whole picture again, and thirty bytes are enough for one.
    if stream.startswith(b"\xff\xd8") and stream.count(_START_OF_SCAN) > _MOST_SCANS:
        raise PixelsUnreadable(f"the compressed frame has more than {_MOST_SCANS} scans")
    parts, tiles = _jpeg2000_claims(stream)
    if parts > _MOST_COMPONENTS or tiles > _MOST_TILES:
        raise PixelsUnreadable(f"the compressed frame claims {parts} components in {tiles} tiles")
    size = codestream_size(stream)
    if size is not None and size != (layout.rows, layout.columns):
        raise PixelsUnreadable(
            f"the compressed frame is {size[1]} x {size[0]}, the header says {layout.columns} x {layout.rows}"
        )


def codestream_size(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns as a JPEG, JPEG-LS or JPEG 2000 stream states them; None if it states none.

    JPEG: first frame header, ISO 10918-1 B.2.2 and ISO 14495-1 C.2.2. JPEG 2000: SIZ, ISO 15444-1 A.5.1.
    """
    siz = stream.find(_SIZ)
    if 0 <= siz <= 256 and len(stream) >= siz + 24:
        right, bottom, left, top = struct.unpack(">4L", stream[siz + 8 : siz + 24])
        return bottom - top, right - left
    if not stream.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        # C4, C8 and CC are tables; every other one of C0..CF begins a frame, and so does JPEG-LS F7.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack(">HH", stream[at + 5 : at + 9])
            return rows, columns
        # Fill bytes before a marker are legal; anything else carries its own length.
        at += 1 if marker == 0xFF else 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    return None


def _jpeg2000_claims(stream: bytes) -> tuple[int, int]:
    """Components and tiles that a JPEG 2000 stream claims (SIZ, ISO 15444-1 A.5.1); zeros if it is none."""
    siz = stream.find(_SIZ)
    if not 0 <= siz <= 256 or len(stream) < siz + 42:
        return 0, 0
    right, bottom, _, _, wide, high, x0, y0, parts = struct.unpack(">8LH", stream[siz + 8 : siz + 42])
    return parts, -(-max(0, right - x0) // max(1, wide)) * -(-max(0, bottom - y0) // max(1, high))


def _displayed(
    stored: NDArray[np.generic], ds: Dataset, layout: PixelLayout, *, little_endian: bool
) -> Bytes:
    """From stored values to what a display would show, 8 bits per channel."""
    if layout.samples == 3:
        # pixel_array has already brought YBR to RGB and the planes together.
        return np.ascontiguousarray(stored, dtype=np.uint8)
    if layout.photometric.startswith("PALETTE"):
        return through_palette(stored, ds, little_endian=little_endian)
    grey = _to_eight_bits(stored, ds, layout)
    return 255 - grey if layout.photometric == "MONOCHROME1" else grey


def _to_eight_bits(stored: NDArray[np.generic], ds: Dataset, layout: PixelLayout) -> Bytes:
    """Bring one-channel values to 0..255: more than 8 bits by their window if they have one."""
    lowest = -(1 << (layout.stored - 1)) if layout.signed else 0
    if layout.stored == 8 and not layout.signed:
        return np.ascontiguousarray(stored, dtype=np.uint8)
    values = stored.astype(np.float64)
    centre, width = number(ds, "WindowCenter"), number(ds, "WindowWidth")
    if layout.stored > 8 and centre is not None and width is not None and width >= 2:
        slope, intercept = number(ds, "RescaleSlope") or 1.0, number(ds, "RescaleIntercept") or 0.0
        # PS3.3 C.11.2.1.2.1, linear.
        scaled = ((values * slope + intercept - (centre - 0.5)) / (width - 1) + 0.5) * 255
    else:
        scaled = (values - lowest) * 255 / ((1 << layout.stored) - 1)
    rounded: Bytes = np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)
    return rounded
