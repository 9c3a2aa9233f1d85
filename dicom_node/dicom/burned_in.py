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
from numpy.typing import NDArray

from dicom_node.dicom.label import MIN_CAP, SMALL_SHARE
from dicom_node.dicom.lettering import lettering
from dicom_node.dicom.pixels import Bytes

Floats = NDArray[np.float32]

_WORDS = "AI SYNTHETIC"
_ALIKE = 0.6
"""Correlation from which it is our title. The letters themselves reach 0.99, after JPEG at quality 75 more
than 0.9; the text on real screens and on 646 breast images stays below 0.3."""
_ALIKE_SMALL = 0.35
"""Correlation at half the size from which it is worth looking closer. Of 8,172 titles that reach `_ALIKE`,
lifted, dimmed, bent by gamma, noisy and compressed by chance, each has 0.48 and more; breast images hardly
ever reach it."""
_FLAT = 0.1
"""Standard deviation in grey levels under which half a title's worth of pixels shows nothing: `_shows` wants
more than 1 at full size, of which strokes keep more than half."""
_UPPER = 0.5
"""Share of the picture, from the top, in which titles lie."""


def bears_our_title(grey: Bytes) -> bool:
    """Does a picture, uint8 (H, W), show the words that stand above every result of ours?"""
    largest = max(MIN_CAP, ceil(SMALL_SHARE * min(grey.shape)))
    upper = np.ascontiguousarray(grey[: ceil(_UPPER * grey.shape[0])])
    # All of it: contrast cannot say beforehand where to look, JPEG on a lifted ground makes letters flat.
    small = _half(upper).astype(np.float32)
    return any(_may_show(small, cap) and _shows(upper, cap) for cap in range(MIN_CAP, largest + 1))


def _may_show(small: Bytes | Floats, cap_px: int) -> bool:
    """Look for the words in a picture of half the size, at a fraction of the cost; it may say yes in vain."""
    words = _small_title(cap_px)
    height, width = words.shape
    if height > small.shape[0] or width > small.shape[1]:
        return True
    picture = np.asarray(small, dtype=np.float32)
    # The mean of the words is 0, so a window's own mean does not count.
    alike = cv2.matchTemplate(picture, words, cv2.TM_CCORR)
    return bool((alike >= _variation(picture, height, width) * np.float32(_ALIKE_SMALL)).any())


def _variation(picture: Floats, height: int, width: int) -> Floats:
    """Root of the summed squares about its mean of each window (height, width) of a picture, from its first
    pixel on; at least what `_FLAT` says, so that rounding is nothing beside it."""
    rows, columns = picture.shape[0] - height + 1, picture.shape[1] - width + 1
    size, first = (width, height), (0, 0)
    mean = np.asarray(cv2.boxFilter(picture, cv2.CV_32F, size, anchor=first))[:rows, :columns]
    squares = np.asarray(cv2.sqrBoxFilter(picture, cv2.CV_32F, size, anchor=first))[:rows, :columns]
    variance = squares - mean * mean
    np.maximum(variance, np.float32(_FLAT**2), out=variance)
    variance *= np.float32(height * width)
    return np.sqrt(variance, out=variance)


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


@lru_cache(maxsize=64)
def _small_title(cap_px: int) -> Floats:
    """The words at half their size, mean 0 and norm 1: the mean of the four grids that may cut them."""
    words = np.pad(_title(cap_px), 2)
    even = np.pad(words, [(0, side % 2) for side in words.shape])
    cut = [_half(np.roll(even, (row, column), (0, 1))) for row in (0, 1) for column in (0, 1)]
    shown = np.mean(cut, axis=0)[1:-1, 1:-1]
    away = shown - shown.mean()
    return np.ascontiguousarray(away / np.linalg.norm(away), dtype=np.float32)


def _half(picture: Bytes) -> Bytes:
    height, width = (max(1, side // 2) for side in picture.shape)
    whole = picture[: 2 * height, : 2 * width]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
