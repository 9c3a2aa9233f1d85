"""The strain beneath an overlay: colour undone by chroma, the region of interest, and what is no strain.

A grey B-mode beneath cancels in chroma (`model.colormap`). What is left and not near the table is no strain:
text, callipers, outlines, holes in the map. It is masked and filled in from around it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_node.dicom.regions import Box
from model.colormap import ColorMap, chroma_of, match
from training.screens.panes import Rgb, chroma_length

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_LEAST_TOLERANCE, _NOISES = 20.0, 6.0
_MOST_TOLERANCE = 0.6
"""Of the chroma of the table's greyest entry: grey must always be farther than the tolerance."""
_JUMP = 0.12
_INSET = 3
_BRIGHT = 225
_MARK = 60.0


@dataclass(frozen=True, eq=False)
class Recovered:
    """The strain of a pane, on the pane's pixels."""

    strain: Floats
    """(H, W) in [0, 1], 1 soft; filled in where `masked`, meaningless outside `roi`."""
    masked: Mask
    """(H, W): no strain was to be read here."""
    roi: Box
    """x0, y0, x1, y1 in the pane: the region that the overlay fills."""
    distance: float
    """Median distance of the colours from the table, in its levels."""


def tint_of(pane: Rgb) -> Floats:
    """Measure the tint of a B-mode pane: chroma (3,) of one level of grey; scanners tone it blue or brown."""
    some = pane.reshape(-1, 3)[:: max(1, pane.size // 300_000)].astype(np.float32)
    grey, chroma = some.mean(axis=-1), chroma_of(some)
    plain = (grey > 20) & (np.linalg.norm(chroma, axis=-1) < 0.35 * grey)
    if int(plain.sum()) < 100:
        return np.zeros(3, dtype=np.float32)
    return np.asarray(np.median(chroma[plain] / grey[plain, None], axis=0), dtype=np.float32)


def untinted(overlay: Floats, bmode: Floats, tint: Floats, share: float) -> Floats:
    """Take the tint of the B-mode out of an overlay (H, W, 3), where `share` of the B-mode shows through."""
    return np.asarray(overlay - share * bmode[..., None] * tint, dtype=np.float32)


def recover(overlay: Floats, colormap: ColorMap, alpha: float) -> Recovered | None:
    """Undo an overlay, float32 (H, W, 3) of known alpha; None if nowhere its colours are the table's."""
    chroma = chroma_of(overlay)
    strain, distance = match(chroma, colormap, alpha)
    greyest = float(np.linalg.norm(chroma_of(colormap.table), axis=-1).min())
    most = _MOST_TOLERANCE * greyest
    near = distance < most
    if int(near.sum()) < 64:
        return None
    noise = float(np.median(distance[near]))
    fits = distance < float(np.clip(_NOISES * noise, _LEAST_TOLERANCE, max(_LEAST_TOLERANCE, most)))
    roi = _region(fits)
    if roi is None:
        return None
    masked = ~fits | _jumps(strain, fits)
    masked = cv2.dilate(masked.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    roi = _without_frame(roi, masked)
    x0, y0, x1, y1 = roi
    inside = np.zeros_like(masked)
    inside[y0:y1, x0:x1] = True
    filled = fill_in(np.round(strain * 255).astype(np.uint8), masked & inside, roi)
    return Recovered(
        strain=np.where(masked & inside, filled / np.float32(255), strain).astype(np.float32),
        masked=np.asarray(masked),
        roi=roi,
        distance=float(np.median(distance[fits & inside])) if bool((fits & inside).any()) else noise,
    )


def fill_in(picture: NDArray[np.uint8], holes: Mask, box: Box) -> NDArray[np.uint8]:
    """Fill holes of a picture, uint8 (H, W), from around them, inside a box (Telea 2004,
    10.1080/10867651.2004.10487596)."""
    x0, y0, x1, y1 = box
    done = picture.copy()
    if holes[y0:y1, x0:x1].any():
        part = np.ascontiguousarray(picture[y0:y1, x0:x1])
        mask = np.ascontiguousarray(holes[y0:y1, x0:x1].astype(np.uint8))
        done[y0:y1, x0:x1] = cv2.inpaint(part, mask, 4, cv2.INPAINT_TELEA)
    return done


def marks_on(pane: Rgb, under_marks: Mask, tint: Floats) -> Mask:
    """Tell the strokes burned into a plain pane, uint8 (H, W, 3): coloured ones, and white ones where the
    overlay bears a mark, too (`under_marks`)."""
    grey = pane.astype(np.float32).mean(axis=-1)
    coloured = chroma_length(pane.astype(np.float32) - grey[..., None] * tint) > _MARK
    white = under_marks & (grey > _BRIGHT)
    return np.asarray(cv2.dilate((coloured | white).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def _region(fits: Mask) -> Box | None:
    """The rectangle that most of the fitting pixels fill."""
    window = np.ones((9, 9), np.uint8)
    whole = cv2.morphologyEx(fits.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    whole = cv2.morphologyEx(whole, cv2.MORPH_CLOSE, window)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(whole)
    if count < 2:
        return None
    part = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    y, x = (np.flatnonzero(line >= 0.5 * line.max()) for line in (part.sum(axis=1), part.sum(axis=0)))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def _jumps(strain: Floats, fits: Mask) -> Mask:
    """Thin strokes whose colour is one of the table's: strain is smooth over millimetres, they are not."""
    values = np.round(np.where(fits, strain, 0.5) * 255).astype(np.uint8)
    side = max(7, min(15, (min(values.shape) // 40) | 1))
    around = cv2.medianBlur(values, side)
    return np.asarray(np.abs(values.astype(np.int16) - around) > _JUMP * 255) & fits


def _without_frame(roi: Box, masked: Mask) -> Box:
    """Draw the region in until no side of it is mostly masked, then a little: JPEG blurs colour past it."""
    x0, y0, x1, y1 = roi
    for _ in range(max(masked.shape)):
        if min(x1 - x0, y1 - y0) < 8:
            break
        sides = [
            float(line.mean())
            for line in (masked[y0:y1, x0], masked[y0, x0:x1], masked[y0:y1, x1 - 1], masked[y1 - 1, x0:x1])
        ]
        worst = int(np.argmax(sides))
        if sides[worst] <= 0.3:
            break
        x0, y0, x1, y1 = x0 + (worst == 0), y0 + (worst == 1), x1 - (worst == 2), y1 - (worst == 3)
    inset = min(_INSET, (x1 - x0) // 8, (y1 - y0) // 8)
    return x0 + inset, y0 + inset, x1 - inset, y1 - inset
