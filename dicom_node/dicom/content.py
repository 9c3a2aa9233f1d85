"""Where B-mode is in a frame that has no usable region: found by what tissue looks like."""

from __future__ import annotations

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
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    members = [k for k in range(1, count) if k == largest or _continues(stats[k], stats[largest])]
    left, top = stats[members, cv2.CC_STAT_LEFT], stats[members, cv2.CC_STAT_TOP]
    x0, y0 = int(left.min()), int(top.min())
    width = int((left + stats[members, cv2.CC_STAT_WIDTH]).max()) - x0
    height = int((top + stats[members, cv2.CC_STAT_HEIGHT]).max()) - y0
    if min(width, height) < MIN_SIDE or width * height < _MIN_FRAME_SHARE * grey.size:
        return None
    if _flat_share(grey, labels == largest) > _FLAT_SHARE:
        return None
    return x0, y0, x0 + width, y0 + height


def _continues(part: np.ndarray, largest: np.ndarray) -> bool:
    """Is this the far side of a large cyst or shadow: under or over the main patch, and not small?"""
    left, width = int(part[cv2.CC_STAT_LEFT]), int(part[cv2.CC_STAT_WIDTH])
    main_left, main_width = int(largest[cv2.CC_STAT_LEFT]), int(largest[cv2.CC_STAT_WIDTH])
    shared = min(left + width, main_left + main_width) - max(left, main_left)
    # A tool bar under a sector is wider than the sector.
    aligned = shared >= 0.6 * main_width and width <= 1.1 * main_width
    return aligned and bool(part[cv2.CC_STAT_AREA] >= 0.15 * largest[cv2.CC_STAT_AREA])


def texture_share(grey: Bytes) -> float:
    """Share of pixels of an area, uint8 (H, W), that are echoes with speckle around them."""
    return float(_speckle(grey).mean())


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
    return float((span[area] <= 1).mean())


def _square(side: int) -> Bytes:
    return np.ones((max(3, side | 1), max(3, side | 1)), np.uint8)
