"""How much colour is in a picture, and what kind: graphics, flow, or an elastogram."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from dicom_node.dicom.pixels import Bytes

_COLOURED = 40
"""Difference of the largest and smallest channel from which a pixel counts as coloured.
JPEG leaves differences up to about 30 in grey tissue; flow and strain colours start well above."""

_PATCH_SHARE = 0.002
_PATCH_COLOURS = 24
_NIL_SHARE = 0.001
_OVERLAY_SHARE = 0.01


class ColourKind(StrEnum):
    """What the colour in a B-mode area comes from, as far as pixels can tell."""

    NONE = "none"
    """None, or marks of the user interface: few pixels of few flat colours."""
    FLOW = "flow"
    STRAIN = "strain"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class ColourMeasure:
    """The colour of one picture; shares are of all its pixels."""

    share: float = 0.0
    patch_share: float = 0.0
    """Largest connected coloured patch."""
    patch_colours: int = 0
    """Distinct colours of that patch at five bits per channel: a drawn mark has few, an overlay many."""
    fill: float = 0.0
    """Share of the rectangle around the main patch, small gaps closed, that is coloured."""
    green_share: float = 0.0
    """Share of the coloured pixels between yellow-green and cyan-green."""
    families: int = 0
    """How many of red, yellow, green, cyan, blue and magenta hold at least a twentieth of the colour."""

    def is_overlay(self, *, flow_expected: bool = False) -> bool:
        """Is this more than marks? Where the header announces flow, anything above nil is."""
        if flow_expected and self.share >= _NIL_SHARE:
            return True
        patch = self.patch_share >= _PATCH_SHARE and self.is_many_coloured()
        return self.share >= _OVERLAY_SHARE or patch

    def is_many_coloured(self) -> bool:
        """Has the main patch more colours than a drawn mark, a banner or a logo?"""
        return self.patch_colours >= _PATCH_COLOURS

    def kind(self, *, flow_expected: bool = False) -> ColourKind:
        """Name it.

        An elastogram fills its box with a smooth run of hues through green; flow is patches of red and
        blue, or of red to yellow. Anything between is UNDECIDED: it is refused all the same, and a
        wrong name in the reason would be worse than none.
        """
        if not self.is_overlay(flow_expected=flow_expected):
            return ColourKind.NONE
        if flow_expected:
            return ColourKind.FLOW
        if self.fill >= 0.75 and self.green_share >= 0.10 and self.families >= 3:
            return ColourKind.STRAIN
        if self.green_share < 0.05 and self.share < 0.4 and self.families <= 4:
            return ColourKind.FLOW
        return ColourKind.UNDECIDED


def measure_colour(picture: Bytes) -> ColourMeasure:
    """Measure a picture, uint8 (H, W) or (H, W, 3)."""
    if picture.ndim == 2 or picture.size == 0:
        return ColourMeasure()
    # Planes: the largest of three neighbours, pixel by pixel, takes NumPy fifty times as long.
    red, green, blue = cv2.split(picture)
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    coloured = np.asarray(cv2.threshold(spread, _COLOURED, 1, cv2.THRESH_BINARY)[1], dtype=np.uint8)
    count = cv2.countNonZero(coloured)
    if count == 0:
        return ColourMeasure()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(coloured, connectivity=8)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    patch = picture[labels == largest] >> 3
    codes = patch[:, 0].astype(np.int32) * 1024 + patch[:, 1].astype(np.int32) * 32 + patch[:, 2]
    hue = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 0][coloured > 0]
    # OpenCV counts hue in steps of two degrees; families are sixty degrees wide, red centred on zero.
    family = ((hue.astype(np.int16) + 15) % 180) // 30
    shares = np.bincount(family, minlength=6) / count
    return ColourMeasure(
        share=count / coloured.size,
        patch_share=float(stats[largest, cv2.CC_STAT_AREA]) / coloured.size,
        patch_colours=len(np.unique(codes)),
        fill=_fill(coloured),
        green_share=float(((hue >= 38) & (hue <= 82)).mean()),
        families=int((shares >= 0.05).sum()),
    )


def _fill(coloured: Bytes) -> float:
    closed = cv2.morphologyEx(coloured, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    main = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, width, height = (int(v) for v in stats[main, :4])
    return float((coloured[y : y + height, x : x + width] > 0).mean()) if labels.size else 0.0
