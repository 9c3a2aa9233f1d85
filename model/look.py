"""How a B-mode frame looks, in a few numbers that a person can check on the picture.

They tell breast tissue under a linear probe from what else may come in a DICOM pane: a sector leaves dark
corners, a drawing has flat areas and strokes, tissue has layers across the beam, gets darker with
depth, and holds speckle of every size. Black borders, and what is written on them, are left out first,
because they belong to the scanner's screen. Nothing here depends on the network or on its weights.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.errors import FrameInvalid

LOOK_VERSION = 1
"""Raise when a frame would give other numbers than before: references fitted earlier no longer hold."""

TRAITS = (
    "top corners",  # share that is dark of both upper corner triangles (the lesser of the two)
    "bottom corners",  # the same below, less what is dark between them: depth alone darkens all three
    "narrow top",  # width shown at the top over the greatest width: sectors begin narrow
    "dark above",  # dark share of the upper half
    "mean",
    "contrast",
    "highlights",  # 98th percentile above the mean, in standard deviations
    "favourite grey",  # share of the most frequent grey level, black apart
    "fading",  # upper third less lower third, in standard deviations
    "rows",  # share of variance that rows explain
    "columns",
    "fine layers",  # gradient energy along the beam over that across it
    "coarse layers",
    "finest grain",  # energy of one octave of detail over that of the next coarser one
    "fine grain",
    "coarse grain",
    "strokes",  # kurtosis of fine detail: few strong lines or many weak speckles
    "glints",  # its skewness: bright on dark or dark on bright
    "flat",  # share without any fine detail
    "evenness",  # how much fine detail varies from place to place
    "row jump",  # strongest step between rows over the usual one: drawn edges
    "column jump",
)
"""What `look_of` measures, in its order."""

_AREA = 128 * 128
"""Pixels to which frames are scaled, aspect kept: traits must not depend on a scanner's zoom."""
_DARK = 10.0
"""Grey level under which, smoothed, nothing is shown."""
_THICK = np.ones((9, 9), np.uint8)
"""At the scaled size letters and bars are thinner than this, tissue is not."""
_BLOCK_SHARE = 0.15
"""Area of a lit part, in shares of the largest, from which it belongs to the picture."""
_LIT_SHARE = 0.04
"""Share of a row or column that is lit where the picture begins and ends."""
_CORNER = 0.3
"""Legs of a corner triangle, as a share of the frame's sides."""

Values = NDArray[np.float64]
_Floats = NDArray[np.floating[Any]]


def look_of(frame: NDArray[np.uint8]) -> Values:
    """Measure TRAITS on one frame uint8 (H, W): float64 (len(TRAITS),), finite, most of them logarithms.

    Raises FrameInvalid if it is not a grey uint8 image.
    """
    if frame.ndim != 2 or frame.dtype != np.uint8 or frame.size == 0:
        raise FrameInvalid(f"got {frame.dtype} {frame.shape}", shape=frame.shape)
    whole = _scaled(frame)
    shown = frame[_shown(whole, frame.shape)]
    scaled = whole if shown.shape == frame.shape else _scaled(shown)
    octaves: list[NDArray[Any]] = [scaled]
    for sigma in (1.0, 1.73, 3.46):
        octaves.append(cv2.GaussianBlur(octaves[-1], (0, 0), sigma))
    deviation = float(scaled.std()) + 1.0
    found = {
        **_coverage(_solid(octaves[2])),
        **_greys(shown, scaled, deviation),
        **_profiles(octaves[1], deviation),
        **_layers(octaves),
        **_grain(octaves),
    }
    return np.array([found[name] for name in TRAITS], dtype=np.float64)


def _shown(scaled: _Floats, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The box around what a frame of this shape shows, without black borders and what is written on them."""
    lit = _solid(cv2.blur(scaled, (3, 3)))
    rows, columns = (_extent(lit.mean(axis=axis), side) for axis, side in ((1, shape[0]), (0, shape[1])))
    return rows, columns


def _extent(shares: NDArray[np.float64], side: int) -> slice:
    """From the first to the last line that is lit, in pixels of a side; all of it if hardly any is."""
    lines = np.flatnonzero(shares > _LIT_SHARE)
    if len(lines) < len(shares) // 8:
        return slice(0, side)
    scale = side / len(shares)
    # A border half inside would be an edge that the picture does not have.
    first = lines[0] + 2 if lines[0] > 0 else 0
    last = lines[-1] - 1 if lines[-1] < len(shares) - 1 else len(shares)
    return slice(round(first * scale), round(last * scale))


def _solid(smooth: NDArray[Any]) -> NDArray[np.bool_]:
    """What is lit and thicker than writing, bars and marks; blocks of writing are too small."""
    lit = cv2.morphologyEx((smooth >= _DARK).view(np.uint8), cv2.MORPH_OPEN, _THICK)
    _, labels = cv2.connectedComponents(lit, connectivity=4)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return np.asarray((areas > _BLOCK_SHARE * areas.max())[labels])


def _scaled(frame: NDArray[np.uint8]) -> _Floats:
    scale = (_AREA / frame.size) ** 0.5
    height, width = (max(24, round(side * scale)) for side in frame.shape)
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR_EXACT
    return cv2.resize(frame, (width, height), interpolation=mode).astype(np.float32)


@lru_cache(maxsize=32)
def _corners(height: int, width: int) -> tuple[NDArray[np.bool_], ...]:
    """Triangles at the top left, top right, bottom left, bottom right."""
    down = (np.arange(height)[:, None] + 0.5) / height / _CORNER
    right = (np.arange(width)[None] + 0.5) / width / _CORNER
    top_left = down + right < 1
    return top_left, top_left[:, ::-1], top_left[::-1], top_left[::-1, ::-1]


def _log(share: float, least: float = 0.02) -> float:
    """A share on a scale where a doubling counts alike everywhere, but not below `least`."""
    return float(np.log(share + least))


def _coverage(lit: NDArray[np.bool_]) -> dict[str, float]:
    height, width = lit.shape
    dark = ~lit
    top_left, top_right, bottom_left, bottom_right = (
        float(dark[corner].mean()) for corner in _corners(height, width)
    )
    between = float(dark[int(0.8 * height) :, int(0.4 * width) : int(0.6 * width)].mean())
    # From the first to the last lit pixel of each row: cysts and shadows within do not count.
    from_left, from_right = (np.logical_or.accumulate(side, axis=1) for side in (lit, lit[:, ::-1]))
    widths = (from_left & from_right[:, ::-1]).mean(axis=1)
    top = float(widths[: max(1, height // 8)].mean())
    return {
        "top corners": _log(min(top_left, top_right)),
        "bottom corners": _log(max(0.0, min(bottom_left, bottom_right) - between)),
        "narrow top": _log(top / max(float(widths.max()), 0.01), 0.05),
        "dark above": _log(float(dark[: height // 2].mean())),
    }


def _greys(frame: NDArray[np.uint8], scaled: _Floats, deviation: float) -> dict[str, float]:
    mean = float(scaled.mean())
    bright = float(np.partition(scaled, round(0.98 * scaled.size), axis=None)[round(0.98 * scaled.size)])
    # On the pixels themselves: scaling would blur what was drawn with one grey.
    counts = cv2.calcHist([frame[::2, ::2]], [0], None, [32], [0, 256]).ravel()[1:]
    return {
        "mean": float(np.log(mean + 5)),
        "contrast": float(np.log(deviation)),
        "highlights": (bright - mean) / deviation,
        "favourite grey": _log(float(counts.max() / max(counts.sum(), 1.0)), 0.005),
    }


def _profiles(smooth: _Floats, deviation: float) -> dict[str, float]:
    rows, columns = smooth.mean(axis=1), smooth.mean(axis=0)
    third = len(rows) // 3
    return {
        "fading": float(rows[:third].mean() - rows[-third:].mean()) / deviation,
        "rows": _log(float(rows.var()) / deviation**2, 0.01),
        "columns": _log(float(columns.var()) / deviation**2, 0.01),
        "row jump": _jump(rows),
        "column jump": _jump(columns),
    }


def _jump(profile: _Floats) -> float:
    # The outermost steps belong to the border of the frame.
    steps = np.abs(np.diff(profile))[3:-3]
    return float(np.log((steps.max() + 0.5) / (np.sqrt((steps * steps).mean()) + 0.5)))


def _layers(octaves: list[NDArray[Any]]) -> dict[str, float]:
    found = {}
    for name, image in (("fine layers", octaves[1]), ("coarse layers", octaves[3])):
        across, along = np.diff(image, axis=1), np.diff(image, axis=0)
        energy_across, energy_along = float((across * across).mean()), float((along * along).mean())
        found[name] = float(np.log((energy_along + 0.05) / (energy_across + 0.05)))
    return found


def _grain(octaves: list[NDArray[Any]]) -> dict[str, float]:
    scaled, *blurred = octaves
    half = cv2.resize(blurred[2], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    coarse = half - cv2.GaussianBlur(half, (0, 0), 3.46)
    bands = [scaled - blurred[0], blurred[0] - blurred[1], blurred[1] - blurred[2], coarse]
    # Grey levels below 0.3 are rounding, not tissue.
    energies = [float(band.std()) + 0.3 for band in bands]
    fine = bands[1]
    squared = fine * fine
    power = float(squared.mean())
    local = np.sqrt(cv2.blur(np.square(scaled - blurred[1]), (9, 9)).clip(min=0))
    return {
        "finest grain": float(np.log(energies[0] / energies[1])),
        "fine grain": float(np.log(energies[1] / energies[2])),
        "coarse grain": float(np.log(energies[2] / energies[3])),
        "strokes": float(np.log((float((squared * squared).mean()) + 1e-3) / (power + 1e-2) ** 2 + 0.5)),
        "glints": float((squared * fine).mean()) / (power + 0.05) ** 1.5,
        "flat": _log(float((local < 1.0).mean()), 0.01),
        "evenness": float(np.log((float(local.std()) + 0.2) / (float(local.mean()) + 0.2))),
    }
