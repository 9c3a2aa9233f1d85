"""What a B-mode still tells of its tissue, on the simulator's grid: where layers may part, what is bright."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.pairs.stills import Still
from training.simulator.anatomy import ROWS
from training.simulator.noise import Field, smooth

_MOST = 2.5
"""Evidence is counted up to so many standard deviations: one bright septum must not outvote a layer."""
_FLUID_GREY = 0.3
"""Fluid: nearly the whole core of a lesion is darker than this share of the grey around it."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Maps (ROWS, columns) of one still; edges and lines in standard deviations, none in lesions."""

    grey: Field
    """0 to 255."""
    mask: NDArray[np.bool_]
    spacing_mm: float
    darkening: Field
    """From a bright layer to a darker one below it, over a millimetre: the lower border of skin."""
    brightening: Field
    """From dark to bright over three millimetres: from fat to gland."""
    fascia: Field
    """A bright line, with darker tissue below than above: the front of the muscle."""
    local_brightness: Field
    """Against the surroundings of some 5 mm, in standard deviations: shadows and time gain cancel out."""
    septa: Field
    """Thin bright lines, 0 or more standard deviations."""
    fluid: bool
    """The lesion is as dark as fluid, and the tissue below it brighter than beside it."""

    @property
    def columns(self) -> int:
        return int(self.grey.shape[1])


def evidence_of(still: Still, depth_mm: float) -> Evidence:
    """Measure a still of which the height is taken for so many millimetres."""
    h = depth_mm / ROWS
    height, width = still.frame.shape
    size = (max(8, round(width * ROWS / height)), ROWS)
    small = cv2.resize(still.frame, size, interpolation=cv2.INTER_AREA)
    mask = np.zeros((ROWS, size[0]), dtype=bool)
    if still.mask is not None:
        covered = cv2.resize(still.mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        # A lesion thinner than a pixel of the grid is still one.
        mask = covered > (0.5 if covered.max() > 0.5 else 0)
    # The median takes callipers and letters out.
    grey = cv2.medianBlur(small, 5).astype(np.float64)
    near = _dilated(mask, 1.5 / h)
    known = (~near).astype(np.float64)

    layer = _known_mean(grey, known, 0.4 / h, 1.5 / h)
    fine, coarse = _below_above(layer, 1.0 / h), _below_above(layer, 3.0 / h)
    line = layer - _known_mean(grey, known, 1.2 / h, 1.5 / h)
    local = _known_mean(grey, known, 0.8 / h, 1.2 / h) - _known_mean(grey, known, 5.0 / h, 5.0 / h)
    opened = cv2.morphologyEx(small, cv2.MORPH_OPEN, np.ones((max(3, round(1.0 / h) | 1), 1), np.uint8))
    thin = smooth((small - opened).astype(np.float64), 0.15 / h, 0.5 / h)
    return Evidence(
        grey=grey,
        mask=mask,
        spacing_mm=h,
        darkening=_scored(-fine, near),
        brightening=_scored(coarse, near),
        fascia=_scored(line, near) + 0.5 * _scored(-coarse, near),
        local_brightness=_standardised(local, near),
        septa=np.maximum(_standardised(thin, near), 0),
        fluid=_looks_like_fluid(grey, mask, h),
    )


def _known_mean(grey: Field, known: Field, sigma_y: float, sigma_x: float) -> Field:
    """Gaussian mean of the known pixels: a lesion takes the grey of what surrounds it."""
    weight = smooth(known, sigma_y, sigma_x)
    mean = smooth(grey * known, sigma_y, sigma_x) / np.maximum(weight, 1e-6)
    far = float((grey * known).sum() / max(known.sum(), 1.0))
    return np.where(weight > 1e-3, mean, far)


def _below_above(layer: Field, length: float) -> Field:
    """Mean of so many rows below minus the mean of as many above; 0 where either leaves the image."""
    n = max(1, round(length))
    sums = np.vstack([np.zeros((1, layer.shape[1])), np.cumsum(layer, axis=0)])
    difference = np.zeros_like(layer)
    below, above = sums[2 * n :] - sums[n:-n], sums[n:-n] - sums[: -2 * n]
    difference[n : n + len(below)] = (below - above) / n
    return difference[: len(layer)]


def _standardised(field: Field, lesion: NDArray[np.bool_]) -> Field:
    outside = field[~lesion] if not lesion.all() else field.ravel()
    return np.asarray((field - outside.mean()) / (outside.std() + 1e-9))


def _scored(edge: Field, lesion: NDArray[np.bool_]) -> Field:
    """Positive part in standard deviations, none at the borders of lesions: those are no layers."""
    deviation = float(edge[~lesion].std()) if not lesion.all() else 0.0
    score = np.clip(edge / (deviation + 1e-9), 0, _MOST)
    return np.where(lesion, 0.0, score)


def _dilated(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    side = 2 * round(radius) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _looks_like_fluid(grey: Field, mask: NDArray[np.bool_], h: float) -> bool:
    if mask.sum() < 30:
        return False
    inner = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    around = _dilated(mask, 2.5 / h) & ~_dilated(mask, 0.5 / h)
    if not around.any():
        return False
    core = np.percentile(grey[inner > 0.35 * inner.max()], 90)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    below = slice(rows[-1] + round(0.5 / h), rows[-1] + round(3.5 / h))
    quarter, aside = len(columns) // 4, round(3.5 / h)
    under = grey[below, columns[0] + quarter : columns[-1] - quarter + 1]
    beside = [
        grey[below, max(0, columns[0] - aside) : columns[0]].ravel(),
        grey[below, columns[-1] + 1 : columns[-1] + 1 + aside].ravel(),
    ]
    flanks = np.concatenate(beside)
    enhances = not under.size or not flanks.size or bool(under.mean() > flanks.mean())
    return enhances and bool(core < _FLUID_GREY * np.median(grey[around]))
