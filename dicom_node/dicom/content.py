"""Where B-mode is in a frame that has no usable region: found by what tissue looks like."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dicom_node.dicom.pixels import Bytes
from dicom_node.dicom.regions import Box
from dicom_node.dicom.skip import MIN_SIDE

_ECHO = 12
"""Grey level above which a pixel can be an echo; lossy compression leaves up to about 8 on black."""
_WINDOW = 7
_SPECKLE = 1.5
"""Standard deviation in a 7 x 7 window: speckle has it nearly everywhere, drawn areas nowhere inside."""
_FLAT_SHARE = 0.4
"""Share of windows without any variation above which an area is writing or a drawing, not speckle."""
_MIN_FRAME_SHARE = 0.12
"""Share of the frame that the box must cover; the ring-down of a probe in air covers 0.07."""


def find_bmode_area(grey: Bytes) -> Box | None:
    """The box around the largest patch of speckle of a frame, uint8 (H, W); None if there is none.

    Strokes, text lines and grey or colour bars are thinner than an opening of a sixteenth of the short
    side, and go. Dark margins inside the box stay: anechoic tissue is dark too.
    """
    short = min(grey.shape)
    if short < MIN_SIDE:
        return None
    speckle = _speckle(grey).astype(np.uint8)
    # Cysts and shadows are holes in the speckle; bridge the small ones before cutting thin things off.
    solid = cv2.morphologyEx(speckle, cv2.MORPH_CLOSE, _square(short // 40))
    solid = cv2.morphologyEx(solid, cv2.MORPH_OPEN, _square(short // 16))
    labels, parts = parts_of(np.asarray(solid, dtype=np.uint8))
    if not parts:
        return None
    largest = max(parts, key=lambda part: part.area)
    members = [part for part in parts if part is largest or _continues(part, largest)]
    x0, y0 = min(part.x for part in members), min(part.y for part in members)
    width = max(part.x + part.width for part in members) - x0
    height = max(part.y + part.height for part in members) - y0
    if min(width, height) < MIN_SIDE or width * height < _MIN_FRAME_SHARE * grey.size:
        return None
    if _flat_share(grey, labels == largest.label) > _FLAT_SHARE:
        return None
    return x0, y0, x0 + width, y0 + height


@dataclass(frozen=True, slots=True)
class Part:
    """One connected part of a mask: its number, the box around it, its pixels."""

    label: int
    x: int
    y: int
    width: int
    height: int
    area: int


def parts_of(mask: Bytes) -> tuple[np.ndarray, list[Part]]:
    """Number the 8-connected parts of a mask, uint8 (H, W): int32 (H, W), 0 outside; and list them by number.

    What `cv2.connectedComponentsWithStats` says, for a fifth of its time where parts are few and large: that
    one adds up centroids pixel by pixel, which nobody asked for.
    """
    _, labels = cv2.connectedComponents(mask, connectivity=8)
    outlines, nesting = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for number, outline in enumerate(outlines):
        if nesting[0, number, 3] >= 0:
            continue  # the edge of a hole
        label = int(labels[outline[0, 0, 1], outline[0, 0, 0]])
        x, y, width, height = cv2.boundingRect(outline)
        area = int(np.count_nonzero(labels[y : y + height, x : x + width] == label))
        parts.append(Part(label, x, y, width, height, area))
    return labels, sorted(parts, key=lambda part: part.label)


def _continues(part: Part, largest: Part) -> bool:
    """Is this the far side of a large cyst or shadow: under or over the main patch, and not small?"""
    shared = min(part.x + part.width, largest.x + largest.width) - max(part.x, largest.x)
    # A tool bar under a sector is wider than the sector.
    aligned = shared >= 0.6 * largest.width and part.width <= 1.1 * largest.width
    return aligned and part.area >= 0.15 * largest.area


def texture_share(grey: Bytes) -> float:
    """Share of pixels of an area, uint8 (H, W), that are echoes with speckle around them."""
    return share_of(_speckle(grey))


def _speckle(grey: Bytes) -> np.ndarray:
    """Where pixels are echoes that vary in a 7 x 7 window, as speckle does: bool (H, W)."""
    # Sums of bytes: whole numbers, exact in float32 until the last product; quicker than means of floats.
    total = cv2.boxFilter(grey, cv2.CV_32F, (_WINDOW, _WINDOW), normalize=False)
    squares = cv2.sqrBoxFilter(grey, cv2.CV_32F, (_WINDOW, _WINDOW), normalize=False)
    count = _WINDOW * _WINDOW
    spread = np.asarray(squares) * np.float32(count) - np.square(total)
    return np.asarray((spread > (_SPECKLE * count) ** 2) & (grey > _ECHO))


def _flat_share(grey: Bytes, area: np.ndarray) -> float:
    window = np.ones((3, 3), np.uint8)
    span = cv2.dilate(grey, window) - cv2.erode(grey, window)
    return float(np.count_nonzero((span <= 1) & area) / np.count_nonzero(area))


def share_of(mask: np.ndarray) -> float:
    """Share of a mask, bool, that is set; the mean of it, counted instead of added up."""
    return float(np.count_nonzero(mask) / mask.size)


def _square(side: int) -> Bytes:
    return np.ones((max(3, side | 1), max(3, side | 1)), np.uint8)
