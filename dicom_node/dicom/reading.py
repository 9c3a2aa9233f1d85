"""One received file -> the B-mode panes that the network sees, or a coded reason why there are none.

Training reads its DICOM files through the same function, so that both see the same bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom import Dataset

from dicom_node.core.errors import DecodingInterrupted, PixelsUnreadable
from dicom_node.core.image import ImageHeader
from dicom_node.dicom.burned_in import bears_our_title
from dicom_node.dicom.colour import measure_colour
from dicom_node.dicom.content import find_bmode_area
from dicom_node.dicom.gate import judge_colour, judge_header, judge_regions, judge_signal
from dicom_node.dicom.header import header_of, number, open_part10, read_dataset, texts
from dicom_node.dicom.pixels import Bytes, decode_frame, layout_of, luma
from dicom_node.dicom.regions import Box, Region, RegionFindings, read_regions
from dicom_node.dicom.skip import Skip, SkipCode

FoundBy = Literal["regions", "image-content"]

_FOREIGN_PATCH_SHARE = 0.01
"""Share of the frame from which a many-coloured patch outside the B-mode area is a pane, not a bar."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What reading one image may cost."""

    max_pixels: int = 4096 * 4096
    """Rows x columns above which nothing is decoded."""
    max_frames: int = 10_000
    max_total_pixels: int = 20_000_000_000
    """Rows x columns x frames above which nothing is decoded."""

    def exceeded(self, header: ImageHeader) -> Skip | None:
        """Decide an object by what it claims to hold."""
        frame = header.rows * header.columns
        size = f"The header claims {header.columns} x {header.rows} pixels"
        if frame > self.max_pixels:
            return Skip(SkipCode.TOO_LARGE, f"{size}; the limit is {self.max_pixels}")
        if header.frames > self.max_frames:
            words = f"The header claims {header.frames} frames; the limit is {self.max_frames}"
            return Skip(SkipCode.TOO_LARGE, words)
        if frame * header.frames > self.max_total_pixels:
            words = f"{size} in {header.frames} frames; the limit is {self.max_total_pixels} in all"
            return Skip(SkipCode.TOO_LARGE, words)
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Pane:
    """One B-mode area of a frame: the input of the network."""

    index: int
    """Place among the panes of the frame, left to right, from 0."""
    box: Box
    """x0, y0, x1, y1 in source pixels, half open."""
    spacing_mm: tuple[float, float] | None
    """(row, column) distance of pixel centres, where the image is calibrated."""
    found_by: FoundBy
    grey: Bytes
    """uint8 (H, W), read-only; luma as `pixels.luma` defines it."""
    digest: str
    """SHA-256 over shape and bytes of `grey`, hexadecimal."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """One accepted frame of one file."""

    header: ImageHeader
    frame_index: int | None
    """From 0; None where the object has a single frame."""
    frame_count: int
    panes: tuple[Pane, ...]


def read_image(path: Path, limits: ReadLimits | None = None) -> Skip | SourceImage:
    """Read one file up to its panes, or say why it gets no result.

    A cine is judged and read by its middle frame, the earlier of two. Raises ObjectUnreadable or
    InvalidUid where the file is no DICOM image at all, which the receiver has already refused;
    DecodingInterrupted where this machine, and not the image, is at fault: never a Skip, which is for good.
    """
    try:
        return _read_image(path, limits or ReadLimits())
    except OSError as error:
        raise DecodingInterrupted(f"the file cannot be read now ({error.strerror})") from error
    except MemoryError as error:
        raise DecodingInterrupted("there is not enough memory") from error


def _read_image(path: Path, limits: ReadLimits) -> Skip | SourceImage:
    with open_part10(path) as file:
        ds = read_dataset(file)
        header = header_of(ds)
        skip = judge_header(header) or limits.exceeded(header)
        if skip is not None:
            return skip
        findings = read_regions(ds, header.rows, header.columns)
        skip = judge_regions(findings)
        if skip is not None:
            return skip
        try:
            layout = layout_of(ds, limits.max_pixels)
            index = (layout.frames - 1) // 2
            frame = decode_frame(file, ds, layout, index)
        except PixelsUnreadable as error:
            return Skip(SkipCode.PIXELS_UNREADABLE, error.detail[:1].upper() + error.detail[1:])
    panes = _panes(frame, ds, findings)
    if isinstance(panes, Skip):
        return panes
    return SourceImage(header, index if layout.frames > 1 else None, layout.frames, panes)


def pane_of(
    index: int, box: Box, spacing_mm: tuple[float, float] | None, found_by: FoundBy, grey: Bytes
) -> Pane:
    """Make a pane of a frame, uint8 (H, W), with its digest."""
    x0, y0, x1, y1 = box
    cut = np.ascontiguousarray(grey[y0:y1, x0:x1])
    cut.flags.writeable = False
    digest = hashlib.sha256(f"{cut.shape[0]}x{cut.shape[1]}:".encode("ascii"))
    digest.update(cut.data)
    return Pane(index, box, spacing_mm, found_by, cut, digest.hexdigest())


def pane_of_picture(frame: Bytes) -> Skip | Pane:
    """Cut the B-mode area out of a picture without a header, uint8 (H, W) or RGB (H, W, 3), or say why not:
    what `read_image` makes of a still that lists no region."""
    panes = _pane_of_content(frame, Dataset(), RegionFindings())
    return panes if isinstance(panes, Skip) else panes[0]


def _panes(frame: Bytes, ds: Dataset, findings: RegionFindings) -> Skip | tuple[Pane, ...]:
    if findings.usable:
        return _panes_of_regions(frame, findings.usable)
    return _pane_of_content(frame, ds, findings)


def _panes_of_regions(frame: Bytes, regions: tuple[Region, ...]) -> Skip | tuple[Pane, ...]:
    """One pane per region that shows tissue. Colour in any of them decides for the whole frame:
    beside flow or an elastogram, the grey pane is the same view, already examined."""
    grey = luma(frame)
    kept: list[Pane] = []
    dark: Skip | None = None
    for index, region in enumerate(regions):
        x0, y0, x1, y1 = region.box
        colour = judge_colour(measure_colour(frame[y0:y1, x0:x1]), flow_expected=region.under_colour)
        if colour is not None:
            return colour
        pane = pane_of(index, region.box, region.spacing_mm, "regions", grey)
        no_signal = judge_signal(pane.grey)
        if no_signal is None:
            kept.append(pane)
        else:
            dark = dark or no_signal
    return dark if dark is not None and not kept else tuple(kept)


def _pane_of_content(frame: Bytes, ds: Dataset, findings: RegionFindings) -> Skip | tuple[Pane, ...]:
    grey = luma(frame)
    whole = measure_colour(frame)
    foreign = whole.patch_share >= _FOREIGN_PATCH_SHARE and whole.is_many_coloured()
    box = find_bmode_area(grey)
    if box is None or foreign:
        skip = judge_colour(whole, flow_expected=findings.colour_flow) if foreign else None
        return skip or _nothing_found(grey, findings)
    x0, y0, x1, y1 = box
    colour = judge_colour(measure_colour(frame[y0:y1, x0:x1]), flow_expected=findings.colour_flow)
    if colour is not None:
        return colour
    # Only here: a picture with regions comes from a scanner as it is.
    if bears_our_title(grey):
        return Skip(SkipCode.OWN_RESULT, "Known by the words AI SYNTHETIC in its pixels")
    # Regions that no longer fit mean that the image was resampled after they were written: then its
    # pixel spacing cannot be trusted either.
    spacing_mm = None if findings.rejected else _pixel_spacing_mm(ds)
    pane = pane_of(0, box, spacing_mm, "image-content", grey)
    return judge_signal(pane.grey) or (pane,)


def _nothing_found(grey: Bytes, findings: RegionFindings) -> Skip:
    dark = judge_signal(grey)
    if dark is not None and dark.code is SkipCode.NO_SIGNAL:
        return dark
    facts = "; ".join(findings.rejected) or "the image lists no usable region"
    return Skip(SkipCode.NO_BMODE, f"{facts[:1].upper()}{facts[1:]}, and no patch of speckle is large enough")


def _pixel_spacing_mm(ds: Dataset) -> tuple[float, float] | None:
    values = texts(ds, "PixelSpacing")
    first = number(ds, "PixelSpacing")
    if len(values) != 2 or first is None:
        return None
    try:
        spacing = (first, float(values[1]))
    except ValueError:
        return None
    return spacing if all(0.001 <= value <= 5.0 for value in spacing) else None
