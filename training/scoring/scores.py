"""Scores of a strain map against the true one, and the references that give a score its meaning."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.simulator.noise import random_field

Map = NDArray[np.float32]
Box = tuple[slice, slice]

RELATIVE_GRID = 64
"""The mean map is averaged on this grid, stretched over every frame: as good a guess as can be
made without looking at the image."""

REPEAT_SCAN_CHANGE = 0.25
"""Two strain scans of one lesion differ by about this much, smoothly over the frame."""


def ncc(a: Map, b: Map) -> float:
    """Normalised cross-correlation at zero shift, -1 to 1; 0 where either map is constant."""
    x, y = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 1e-12 else 0.0


def lesion_box(mask: NDArray[np.bool_], margin: float = 0.2) -> Box:
    """Bounding box of a lesion, widened on each side by a share of its size, inside the frame."""
    spans = []
    for axis in (0, 1):
        inside = np.flatnonzero(mask.any(axis=1 - axis))
        extra = round(margin * (inside[-1] - inside[0] + 1))
        spans.append(
            slice(max(0, int(inside[0]) - extra), min(mask.shape[axis], int(inside[-1]) + 1 + extra))
        )
    return spans[0], spans[1]


def stretch(map_: Map, shape: tuple[int, int]) -> Map:
    """Resize a map to (H, W), aspect ignored."""
    shrinking = shape[0] < map_.shape[0]
    mode = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(map_, (shape[1], shape[0]), interpolation=mode), dtype=np.float32)


def mean_map(strains: Sequence[Map]) -> Map:
    """Average true maps on the relative grid (RELATIVE_GRID, RELATIVE_GRID)."""
    total = np.zeros((RELATIVE_GRID, RELATIVE_GRID))
    for strain in strains:
        total += stretch(strain, (RELATIVE_GRID, RELATIVE_GRID))
    return (total / len(strains)).astype(np.float32)


def repeat_scan(strain: Map, seed: int) -> Map:
    """Perturb a true map as a second acquisition would: smooth, multiplicative, REPEAT_SCAN_CHANGE."""
    sigma = strain.shape[0] / 10
    rng = np.random.default_rng(seed)
    change = random_field(rng, (strain.shape[0], strain.shape[1]), sigma, sigma)
    return np.clip(strain * (1 + REPEAT_SCAN_CHANGE * change), 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Interval:
    """A mean over pairs with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    deviation: float
    n: int


def bootstrap(values: Sequence[float], seed: int = 0, draws: int = 2000) -> Interval:
    """Mean and percentile interval, pairs drawn with replacement; the same seed gives the same ends."""
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = data[rng.integers(0, len(data), (draws, len(data)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    mean, low, high, deviation = (round(float(v), 4) for v in (data.mean(), low, high, data.std()))
    return Interval(mean, low, high, deviation, len(data))
