"""Our own words, found again in pixels that lost everything else.

A result can come back as a grey Ultrasound image without one attribute of ours: exported for teaching,
captured from a screen. Its left half then looks like B-mode, but the title above its right half still says
what it is. Found are the built-in letters at the size they were drawn; scaled pictures mostly are not.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import cv2
import numpy as np

from dicom_node.dicom.label import MIN_CAP, SMALL_SHARE
from dicom_node.dicom.lettering import lettering
from dicom_node.dicom.pixels import Bytes

_WORDS = "AI SYNTHETIC"
_ALIKE = 0.6
"""Correlation from which it is our title. The letters themselves reach 0.99, after JPEG at quality 75 more
than 0.9; the text on real screens and on 646 breast images stays below 0.3."""
_UPPER = 0.5
"""Share of the picture, from the top, in which titles lie."""
_CONTRAST = 0.8
"""Standard deviation over mean where the title may stand. Letters on black have 1.3 and more, however bright;
speckle stays below 0.5."""


def bears_our_title(grey: Bytes) -> bool:
    """Does a picture, uint8 (H, W), show the words that stand above every result of ours?"""
    largest = max(MIN_CAP, ceil(SMALL_SHARE * min(grey.shape)))
    upper = _where_words_may_be(np.ascontiguousarray(grey[: ceil(_UPPER * grey.shape[0])]), largest)
    return upper is not None and any(_shows(upper, cap) for cap in range(MIN_CAP, largest + 1))


def _where_words_may_be(picture: Bytes, largest_cap: int) -> Bytes | None:
    """The part that has strokes on dark ground; None if there is none.

    Comparing letters costs ten times as much, and most pictures have no words at all.
    """
    height, width = _title(MIN_CAP).shape
    if height > picture.shape[0] or width > picture.shape[1]:
        return None
    window = (width, height)
    values = picture.astype(np.float32)
    mean = cv2.blur(values, window)
    square = cv2.blur(values * values, window)
    # Of an all but black area no contrast can be told; `_shows` wants a deviation above 1 as well.
    strokes = (square - mean * mean > (_CONTRAST * mean) ** 2) & (square > 1)
    rows, columns = np.flatnonzero(strokes.any(axis=1)), np.flatnonzero(strokes.any(axis=0))
    if not rows.size:
        return None
    tall, wide = _title(largest_cap).shape
    y0, y1 = max(0, int(rows.min()) - tall), int(rows.max()) + tall + 1
    x0, x1 = max(0, int(columns.min()) - wide), int(columns.max()) + wide + 1
    return np.ascontiguousarray(picture[y0:y1, x0:x1])


def _shows(picture: Bytes, cap_px: int) -> bool:
    words = _title(cap_px)
    if words.shape[0] > picture.shape[0] or words.shape[1] > picture.shape[1]:
        return False
    alike = cv2.matchTemplate(picture, words, cv2.TM_CCOEFF_NORMED)
    y, x = divmod(int(np.argmax(alike)), alike.shape[1])
    if alike[y, x] < _ALIKE:
        return False
    # Where the picture is flat, the quotient that OpenCV computes may be anything.
    found = picture[y : y + words.shape[0], x : x + words.shape[1]].astype(np.float64)
    return found.std() > 1 and float(np.corrcoef(found.ravel(), words.ravel())[0, 1]) >= _ALIKE


@lru_cache(maxsize=64)
def _title(cap_px: int) -> Bytes:
    drawn = lettering(cap_px).draw(_WORDS, (255, 255, 255))[..., 0]
    inked = np.argwhere(drawn > 0)
    (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0) + 1
    return np.ascontiguousarray(drawn[top:bottom, left:right])
