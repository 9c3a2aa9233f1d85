"""The Sequence of Ultrasound Regions: where the scanner says B-mode is (PS3.3 C.8.5.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pydicom import Dataset

from dicom_node.dicom.header import items, number, whole_number
from dicom_node.dicom.skip import MIN_SIDE

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in source pixels, half open."""

_BOUND_TOLERANCE = 1
"""Pixels. Some writers give the width itself as the last column."""

_CENTIMETRES = 3
_LOW_PRIORITY = 0x1
# Outside these, a physical delta is a mistake: finer than any breast probe, coarser than any picture.
_PLAUSIBLE_MM = (0.001, 5.0)
_SAME_REGION = 0.5


class SpatialFormat(IntEnum):
    """Region Spatial Format (0018,6012), C.8.5.5.1.1."""

    NONE = 0
    TWO_D = 1
    M_MODE = 2
    SPECTRAL = 3
    WAVEFORM = 4
    GRAPHICS = 5


class DataType(IntEnum):
    """Region Data Type (0018,6014), C.8.5.5.1.2: those that matter here. None of them is elastography."""

    TISSUE = 1
    COLOUR_FLOW = 2
    COLOUR_BAR = 0xE


@dataclass(frozen=True, slots=True)
class Region:
    """One usable B-mode region."""

    box: Box
    spacing_mm: tuple[float, float] | None
    """(row, column) distance of pixel centres; None where the region is not calibrated in centimetres."""
    low_priority: bool = False
    """C.8.5.5.1.3 bit 0: a region of high priority that overlaps this one has overwritten it."""
    under_colour: bool = False
    """A colour-flow region overlaps it, so any colour at all in it is taken for flow."""


@dataclass(frozen=True, slots=True)
class RegionFindings:
    """What the regions of one image come to."""

    usable: tuple[Region, ...] = ()
    rejected: tuple[str, ...] = ()
    """One fact per tissue region that cannot be used."""
    formats: frozenset[int] = frozenset()
    """Every Region Spatial Format that the image lists."""
    colour_flow: bool = False
    colour_bars: tuple[Box, ...] = ()
    """Where the image lists colour bars; as written, they may lie anywhere."""

    @property
    def listed(self) -> bool:
        """Does the image list any region?"""
        return bool(self.formats)

    @property
    def tissue_listed(self) -> bool:
        """Does the image list a tissue region, usable or not?"""
        return bool(self.usable or self.rejected)


def read_regions(ds: Dataset, rows: int, columns: int) -> RegionFindings:
    """Sort the regions of an image of this size into usable, rejected and other.

    A region outside the image is left over from before the image was resampled or cropped: it says
    nothing about where tissue is now, so it is rejected, never cut to fit.
    """
    usable: list[Region] = []
    rejected: list[str] = []
    formats: set[int] = set()
    colour: list[Box] = []
    bars: list[Box] = []
    for item in items(ds, "SequenceOfUltrasoundRegions"):
        spatial = whole_number(item, "RegionSpatialFormat")
        data_type = whole_number(item, "RegionDataType")
        formats.add(-1 if spatial is None else spatial)
        box = _box(item)
        if box is not None and data_type == DataType.COLOUR_FLOW:
            colour.append(box)
        if box is not None and data_type == DataType.COLOUR_BAR:
            bars.append(box)
        if spatial != SpatialFormat.TWO_D or data_type != DataType.TISSUE:
            continue
        region = _judged(item, box, rows, columns)
        if isinstance(region, str):
            rejected.append(region)
        else:
            usable.append(region)
    kept = _without_repeats(usable)
    return RegionFindings(
        usable=tuple(_beside_colour(region, colour) for region in kept),
        rejected=tuple(rejected),
        formats=frozenset(formats),
        colour_flow=bool(colour),
        colour_bars=tuple(bars),
    )


def overlap(one: Box, other: Box) -> int:
    """Pixels that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def area(box: Box) -> int:
    """Pixels in a box."""
    return overlap(box, box)


def _box(item: Dataset) -> Box | None:
    """The location as a half-open box; the standard's corners are both inclusive."""
    corners = [
        whole_number(item, f"RegionLocation{corner}") for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")
    ]
    x0, y0, x1, y1 = corners
    if x0 is None or y0 is None or x1 is None or y1 is None:
        return None
    return x0, y0, x1 + 1, y1 + 1


def _judged(item: Dataset, box: Box | None, rows: int, columns: int) -> Region | str:
    """The usable region, or the fact that makes it useless."""
    if box is None:
        return "a tissue region has no location"
    x0, y0, x1, y1 = box
    where = f"the tissue region {x0},{y0} to {x1 - 1},{y1 - 1}"
    if x0 < 0 or y0 < 0 or x1 > columns + _BOUND_TOLERANCE or y1 > rows + _BOUND_TOLERANCE:
        return f"{where} reaches outside the image of {columns} x {rows}"
    inside = (x0, y0, min(x1, columns), min(y1, rows))
    if min(inside[2] - x0, inside[3] - y0) < MIN_SIDE:
        return f"{where} has a side under {MIN_SIDE} pixels"
    low_priority = bool((whole_number(item, "RegionFlags") or 0) & _LOW_PRIORITY)
    return Region(inside, _spacing_mm(item), low_priority)


def _spacing_mm(item: Dataset) -> tuple[float, float] | None:
    """(row, column) spacing. The deltas may be negative: they carry the direction of the axes."""
    spacing = []
    for axis in "YX":
        delta = number(item, f"PhysicalDelta{axis}")
        if whole_number(item, f"PhysicalUnits{axis}Direction") != _CENTIMETRES or delta is None:
            return None
        spacing.append(abs(delta) * 10)
    if not all(_PLAUSIBLE_MM[0] <= value <= _PLAUSIBLE_MM[1] for value in spacing):
        return None
    return spacing[0], spacing[1]


def _without_repeats(regions: list[Region]) -> list[Region]:
    """Drop a region that mostly lies under a better one: of high priority, or larger."""
    best_first = sorted(regions, key=lambda region: (region.low_priority, -area(region.box)))
    kept: list[Region] = []
    for region in best_first:
        if all(overlap(region.box, k.box) < _SAME_REGION * area(region.box) for k in kept):
            kept.append(region)
    # Reading order, so that a pane's index does not hang on the order in the file.
    return sorted(kept, key=lambda region: (region.box[1] // MIN_SIDE, region.box[0]))


def _beside_colour(region: Region, colour: list[Box]) -> Region:
    under = any(overlap(region.box, box) for box in colour)
    return Region(region.box, region.spacing_mm, region.low_priority, under)
