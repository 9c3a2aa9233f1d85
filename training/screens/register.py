"""How far the coloured pane's tissue lies from the plain pane's, to a fraction of a pixel."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.screens.panes import high_pass

Floats = NDArray[np.float32]
Shift = tuple[float, float]

_FARTHEST_PX = 4.0
_BETTER = 0.01
_STROKE = 3.5
"""Standard deviations of fine structure from which a pixel is a stroke of text or a mark, which lie where
they lie however the tissue moved."""
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)


def find_shift(plain: NDArray[np.uint8], coloured: NDArray[np.uint8]) -> Shift:
    """Measure (dx, dy): how far right and down the content of `coloured` lies of that of `plain`.

    Both uint8 (H, W) grey. Phase correlation of what is fine finds the shift, maximising the correlation of
    speckle alone refines it (Evangelidis and Psarakis, 10.1109/TPAMI.2008.113). No shift is reported where
    one would make the panes no more alike: under an opaque overlay there is nothing to go by.
    """
    fine = [high_pass(grey) for grey in (plain, coloured)]
    speckle = ~(_strokes(fine[0]) | _strokes(fine[1]))
    window = cv2.createHanningWindow((plain.shape[1], plain.shape[0]), cv2.CV_32F)
    kept = [np.where(speckle, picture, 0).astype(np.float32) for picture in fine]
    start, _ = cv2.phaseCorrelate(kept[0], kept[1], window)
    best, alike = (0.0, 0.0), correlation(fine[0], fine[1], speckle) + _BETTER
    for dx, dy in ((0.0, 0.0), start):
        warp = np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float32)
        try:
            _, found = cv2.findTransformECC(
                kept[1], kept[0], warp, cv2.MOTION_TRANSLATION, _CRITERIA, speckle.astype(np.uint8), 3
            )
        except cv2.error:  # It says so by an error when nothing correlates.
            continue
        shift = (-float(found[0, 2]), -float(found[1, 2]))
        if max(abs(v) for v in shift) > _FARTHEST_PX:
            continue
        now = correlation(moved(fine[0], shift), fine[1], speckle)
        if now > alike:
            best, alike = shift, now
    return best


def _strokes(fine: Floats) -> NDArray[np.bool_]:
    strokes = (np.abs(fine) > _STROKE * fine.std()).astype(np.uint8)
    return np.asarray(cv2.dilate(strokes, np.ones((7, 7), np.uint8)) > 0)


def moved(picture: NDArray[np.generic], shift: Shift) -> Floats:
    """Move a picture (H, W) or (H, W, C) right and down by a fraction of a pixel: float32."""
    values = picture.astype(np.float32)
    if shift == (0.0, 0.0):
        return values
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], dtype=np.float32)
    size = (values.shape[1], values.shape[0])
    warped = cv2.warpAffine(values, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, dtype=np.float32)


def correlation(one: Floats, other: Floats, where: NDArray[np.bool_] | None = None) -> float:
    """Correlate two pictures at zero shift, where told; 0 where one of them is flat."""
    a, b = (picture[where] if where is not None else picture.ravel() for picture in (one, other))
    a, b = a - a.mean(), b - b.mean()
    energy = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / energy if energy > 0 else 0.0
