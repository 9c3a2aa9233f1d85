"""Where the two panes of a dual view lie: the plain B-mode, and the same tissue under colour.

Speckle is a fingerprint: both panes carry the same, so the high-passed grey of the screen correlates with
itself at the distance of the panes, whichever comes first, side by side or stacked, whatever the margins.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from dicom_node.dicom.pixels import luma
from dicom_node.dicom.regions import Box
from training.screens.reasons import Reason, Rejection

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]

_WORKING_SIDE = 1000
"""Pixels. Larger screens are reduced to find the panes; the shift is measured at full size."""
_MIN_SIDE = 64
_FINE_PX, _CLIP = 3.0, 40.0
"""Scale of speckle, and levels above which a pixel may be of text, whose strokes correlate with strokes."""
_CANDIDATES = 6
_ALIKE = 0.4
"""Local correlation from which two places show the same tissue; independent speckle stays under 0.3 in
windows of 21 pixels, the same under colour of 80 % has 0.5 and more."""
_WINDOW = 21
_LINE = 41
_COLOURED = 14.0
"""Chroma, a length in levels, from which a smoothed pixel carries colour: an overlay of jet at 30 % has at
least 30, tinted B-mode under 12."""
_COLOURED_SHARE = 0.04
_SAME_SIZE = 0.05


@dataclass(frozen=True)
class Panes:
    """The two panes, equal in size."""

    clean: Box
    """x0, y0, x1, y1, half open."""
    coloured: Box
    found_by: str
    """content, regions or settings."""


def high_pass(grey: NDArray[np.generic], scale_px: float = _FINE_PX) -> Floats:
    """What varies at the scale of speckle: float32 (H, W)."""
    values = grey.astype(np.float32)
    return np.asarray(values - cv2.GaussianBlur(values, (0, 0), scale_px), dtype=np.float32)


def find_panes(
    rgb: Rgb, tissue: tuple[Box, ...] = (), given: tuple[Box, Box] | None = None
) -> Panes | Rejection:
    """Find the panes of a screen, uint8 (H, W, 3).

    tissue  boxes of the DICOM regions that show tissue: tried first, and kept where speckle agrees.
    given   both boxes, in any order, where a site has stated them: taken as they are.
    """
    if given is not None:
        if not all(_fits(box, rgb.shape) for box in given):
            size = f"{rgb.shape[1]} x {rgb.shape[0]} pixels"
            return Rejection(
                Reason.NO_PANES, f"the stated panes do not fit on {size}, or are under {_MIN_SIDE}"
            )
        return _sorted_by_colour(rgb, *_equal(*given), "settings")
    scale = min(1.0, _WORKING_SIDE / max(rgb.shape[:2]))
    small = rgb
    if scale < 1:
        small = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    fine = _fingerprint(luma(small))
    stated = [(a, b) for a, b in permutations(tissue, 2) if (a[0], a[1]) < (b[0], b[1]) and _same_size(a, b)]
    for one, other in stated:
        apart = (round((other[0] - one[0]) * scale), round((other[1] - one[1]) * scale))
        alike = _alike_around(fine, apart)
        if _inside(alike, one, scale) >= 0.25:
            return _sorted_by_colour(rgb, *_equal(one, other), "regions")
    extents = [(extent, apart) for apart in _distances(fine) if (extent := _extent(small, fine, apart))]
    rejection = Rejection(
        Reason.NO_PANES, f"no speckle occurs twice on {rgb.shape[1]} x {rgb.shape[0]} pixels"
    )
    # Windows and buttons of a program repeat, too, but not with colour on one of two and speckle beneath.
    for (_, box), (dx, dy) in sorted(extents, reverse=True):
        one, other = _at_full_size(box, dx, dy, scale, rgb.shape[:2])
        found = _sorted_by_colour(rgb, one, other, "content")
        if isinstance(found, Panes):
            return found
        rejection = found
    for one, other in stated:  # An opaque overlay over the whole pane leaves no speckle to compare.
        return _sorted_by_colour(rgb, *_equal(one, other), "regions")
    return rejection


def chroma_length(rgb: NDArray[np.generic]) -> Floats:
    """How coloured each pixel (..., 3) is: the length of what is left without its mean, in levels."""
    values = rgb.astype(np.float32)
    return np.asarray(np.linalg.norm(values - values.mean(axis=-1, keepdims=True), axis=-1))


def coloured(rgb: Rgb) -> NDArray[np.bool_]:
    """Tell the pixels of a picture, uint8 (H, W, 3), that lie in an area of colour, not on a stroke."""
    return chroma_length(cv2.GaussianBlur(rgb, (0, 0), 2.0)) > _COLOURED


def cut(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return a box of a picture."""
    return picture[box[1] : box[3], box[0] : box[2]]


def _sorted_by_colour(rgb: Rgb, one: Box, other: Box, found_by: str) -> Panes | Rejection:
    shares = [float(coloured(cut(rgb, box)).mean()) for box in (one, other)]
    facts = f"{shares[0]:.1%} and {shares[1]:.1%} of the panes are coloured"
    if max(shares) < _COLOURED_SHARE:
        return Rejection(Reason.NO_OVERLAY, facts)
    if min(shares) > 0.5 * max(shares):
        return Rejection(Reason.TWO_OVERLAYS, facts)
    return Panes(one, other, found_by) if shares[1] > shares[0] else Panes(other, one, found_by)


def _fingerprint(grey: NDArray[np.uint8]) -> Floats:
    """Speckle without what resembles itself all along: lines of a frame, of a menu, of a fascia."""
    fine = np.clip(high_pass(grey), -_CLIP, _CLIP)
    fine = fine - cv2.blur(fine, (_LINE, 1))
    return np.asarray(fine - cv2.blur(fine, (1, _LINE)), dtype=np.float32)


def _distances(fine: Floats) -> list[tuple[int, int]]:
    """The distances (dx, dy) at which a high-passed picture most resembles itself."""
    rows, columns = fine.shape
    shape = (next_fast_len(2 * rows, real=True), next_fast_len(2 * columns, real=True))
    power = np.abs(rfft2(fine, shape)) ** 2
    alike = np.fft.fftshift(irfft2(power, shape))
    cy, cx = shape[0] // 2, shape[1] // 2
    found: list[tuple[int, int]] = []
    side = alike[cy - rows // 10 : cy + rows // 10 + 1, cx + _MIN_SIDE : cx + columns - _MIN_SIDE].copy()
    below = alike[cy + _MIN_SIDE : cy + rows - _MIN_SIDE, cx - columns // 10 : cx + columns // 10 + 1].copy()
    for area, dx0, dy0 in ((side, _MIN_SIDE, -(rows // 10)), (below, -(columns // 10), _MIN_SIDE)):
        for _ in range(_CANDIDATES if area.size else 0):
            y, x = divmod(int(area.argmax()), area.shape[1])
            found.append((x + dx0, y + dy0))
            area[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6] = -np.inf
    return found


def _overlapping(picture: Any, dx: int, dy: int) -> tuple[Any, Any]:
    """Two views of a picture, the second shifted by (dx, dy), of what both hold; dx or dy may be negative."""
    rows, columns = picture.shape[:2]
    y0, y1, x0, x1 = max(0, -dy), min(rows, rows - dy), max(0, -dx), min(columns, columns - dx)
    return picture[y0:y1, x0:x1], picture[y0 + dy : y1 + dy, x0 + dx : x1 + dx]


def _alike_around(fine: Floats, apart: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell where a picture resembles itself at a distance: bool (H, W), at the first of the two places."""
    dx, dy = apart
    here, there = _overlapping(fine, dx, dy)
    window = (_WINDOW, _WINDOW)
    together = cv2.blur(here * there, window)
    # Four square levels: noise of flat areas resembles nothing.
    energy = np.sqrt((cv2.blur(here * here, window) + 4.0) * (cv2.blur(there * there, window) + 0.5))
    alike = np.zeros(fine.shape, dtype=bool)
    y0, x0 = max(0, -dy), max(0, -dx)
    alike[y0 : y0 + here.shape[0], x0 : x0 + here.shape[1]] = together / energy > _ALIKE
    return alike


def _extent(rgb: Rgb, fine: Floats, apart: tuple[int, int]) -> tuple[int, Box] | None:
    """How much is alike at a distance, and the box of the first pane."""
    dx, dy = apart
    alike = _alike_around(fine, apart)
    if alike.mean() < 0.002:
        return None
    # Under thick colour speckle hardly shows: there, colour on one side and texture on the other count too.
    tinted = coloured(rgb)
    textured = cv2.blur(fine * fine, (_WINDOW, _WINDOW)) > 4.0
    (colour, colour_there), (texture, texture_there) = (_overlapping(m, dx, dy) for m in (tinted, textured))
    pane = alike.astype(np.uint8)
    y0, x0 = max(0, -dy), max(0, -dx)
    inside = pane[y0 : y0 + colour.shape[0], x0 : x0 + colour.shape[1]]
    inside |= ((colour & ~colour_there & texture_there) | (colour_there & ~colour & texture)).astype(np.uint8)
    square = np.ones((_WINDOW, _WINDOW), np.uint8)
    whole = cv2.morphologyEx(cv2.morphologyEx(pane, cv2.MORPH_CLOSE, square), cv2.MORPH_OPEN, square)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(whole)
    if count < 2:
        return None
    # The one that holds most of what is alike, so that a patch of colour alone is never a pane.
    held = np.bincount(labels[alike], minlength=count)
    held[0] = 0
    main = int(held.argmax())
    if (
        stats[main, cv2.CC_STAT_AREA] < _MIN_SIDE * _MIN_SIDE
        or held[main] < 0.05 * stats[main, cv2.CC_STAT_AREA]
    ):
        return None
    part = labels == main
    box = _filled(part)
    rows, columns = part.shape
    box = max(box[0], -dx), max(box[1], -dy), min(box[2], columns - dx), min(box[3], rows - dy)
    width, height = box[2] - box[0], box[3] - box[1]
    if dx >= abs(dy):
        width = min(width, dx)
    else:
        height = min(height, dy)
    if min(width, height) < _MIN_SIDE:
        return None
    box = _without_borders(rgb, (box[0], box[1], box[0] + width, box[1] + height), apart)
    return (int(held[main]), box) if min(box[2] - box[0], box[3] - box[1]) >= _MIN_SIDE else None


def _without_borders(rgb: Rgb, box: Box, apart: tuple[int, int]) -> Box:
    """Take off the rows and columns around that hold next to nothing in one of the panes: the windows in
    which likeness was measured reach past the panes."""
    x0, y0, x1, y1 = box
    sharp = np.abs(high_pass(luma(rgb), 1.0))
    both = [sharp[y0 + dy : y1 + dy, x0 + dx : x1 + dx] for dx, dy in ((0, 0), apart)]
    sides = []
    for axis in (0, 1):
        held = np.minimum(*(part.mean(axis=axis) for part in both))
        sides.append(np.flatnonzero(held > 0.2 * np.median(held)))
    x, y = sides
    return x0 + int(x[0]), y0 + int(y[0]), x0 + int(x[-1]) + 1, y0 + int(y[-1]) + 1


def _filled(part: NDArray[np.bool_]) -> Box:
    """The rectangle that an area fills, without the odd tongue: rows and columns a quarter of the fullest."""
    down, across = part.sum(axis=1), part.sum(axis=0)
    y, x = (np.flatnonzero(line >= 0.25 * line.max()) for line in (down, across))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def _inside(alike: NDArray[np.bool_], box: Box, scale: float) -> float:
    x0, y0, x1, y1 = (round(v * scale) for v in box)
    return float(alike[y0:y1, x0:x1].mean())


def _same_size(a: Box, b: Box) -> bool:
    sides = [(a[i + 2] - a[i], b[i + 2] - b[i]) for i in (0, 1)]
    return all(abs(p - q) <= _SAME_SIZE * max(p, q) for p, q in sides)


def _equal(one: Box, other: Box) -> tuple[Box, Box]:
    """Both boxes at the size that both have."""
    width, height = (min(box[i + 2] - box[i] for box in (one, other)) for i in (0, 1))
    first, second = ((box[0], box[1], box[0] + width, box[1] + height) for box in (one, other))
    return first, second


def _fits(box: Box, shape: tuple[int, ...]) -> bool:
    x0, y0, x1, y1 = box
    return x0 >= 0 and y0 >= 0 and x0 + _MIN_SIDE <= x1 <= shape[1] and y0 + _MIN_SIDE <= y1 <= shape[0]


def _at_full_size(box: Box, dx: int, dy: int, scale: float, shape: tuple[int, int]) -> tuple[Box, Box]:
    x0, y0, x1, y1 = (round(v / scale) for v in box)
    mx, my = round(dx / scale), round(dy / scale)
    x1, y1 = min(x1, shape[1] - max(0, mx)), min(y1, shape[0] - max(0, my))
    return (x0, y0, x1, y1), (x0 + mx, y0 + my, x1 + mx, y1 + my)
