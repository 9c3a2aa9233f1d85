"""Borders of skin, fat, gland and muscle in a still: drawn where the image supports them, else by anatomy.

Each draw first draws where anatomy would put a border, then takes the smooth path that agrees best with
that place and with the image. So a border that the image shows hardly moves between draws, and one that it
does not show scatters as it does between breasts.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.layouts.evidence import Evidence
from training.simulator.anatomy import ROWS
from training.simulator.noise import Field, random_curve, smooth

_COLUMN_MM = 1.0
"""Distance of the columns in which a path is sought; borders bend over several millimetres."""
_BEND = 4.0
"""Cost of a slope of one over a column, in standard deviations of evidence."""
_NO_SKIN_SHARE = 0.5
"""Share without skin among stills whose top is no brighter than what follows: their top was cut off."""


@dataclass(frozen=True, eq=False)
class Layers:
    """Depth of each border in millimetres, (columns,), from top to bottom."""

    skin: Field
    """Lower border of the skin; 0 if the picture begins below it."""
    fat: Field
    """Lower border of the subcutaneous fat, where gland may begin."""
    muscle: Field
    """Front of the muscle; below the picture if it shows none."""


def draw_layers(rng: np.random.Generator, evidence: Evidence) -> Layers:
    """Draw the borders of one still; each lies a little below the one above it."""
    depth = ROWS * evidence.spacing_mm
    skin = _draw_skin(rng, evidence)
    # The ranges of whole breasts: training/simulator/anatomy.py.
    fat_level = float(skin.mean()) + depth * rng.uniform(0.08, 0.4)
    fat = _path(rng, evidence.brightening, evidence, fat_level, 0.12 * depth)
    # Scans of small breasts and of the axilla show muscle from half the depth on.
    muscle_level = depth * rng.uniform(0.6, 1.1)
    muscle = _path(rng, evidence.fascia, evidence, muscle_level, 0.15 * depth)
    # Lesions of the breast lie in front of the muscle.
    rows = np.arange(ROWS)[:, None] * evidence.spacing_mm
    lesion_bottom = np.where(evidence.mask, rows, -1.0).max(axis=0)
    # Widened before it is smoothed, or the tip of a narrow spicule would be smoothed into the muscle.
    bottom = np.where(lesion_bottom > 0, lesion_bottom + 1.0, 0.0)[None, :]
    floor = smooth(np.asarray(cv2.dilate(bottom, np.ones((1, 9))), dtype=np.float64), 1e-3, 2.0)[0]
    fat = np.maximum(fat, skin + 1.0)
    muscle = np.maximum(np.maximum(muscle, fat + 2.0), floor)
    return Layers(skin, fat, muscle)


def _draw_skin(rng: np.random.Generator, evidence: Evidence) -> Field:
    h = evidence.spacing_mm
    top = evidence.grey[: max(1, round(1.5 / h))].mean()
    following = evidence.grey[round(2.5 / h) : round(5.0 / h)].mean()
    level = rng.uniform(1.2, 2.4)
    absent = rng.random() < _NO_SKIN_SHARE
    if top <= following and absent:
        return np.zeros(evidence.columns)
    return np.maximum(_path(rng, evidence.darkening, evidence, level, 0.6), 0.5)


def _path(
    rng: np.random.Generator, score: Field, evidence: Evidence, level_mm: float, spread_mm: float
) -> Field:
    """The smooth path (columns,), in mm, of most evidence near a depth; it may leave at the bottom."""
    h = evidence.spacing_mm
    step = max(1, round(_COLUMN_MM / h))
    n = max(2, evidence.columns // step)
    coarse = score[:, : n * step].reshape(ROWS, n, step).mean(axis=2)
    # Below the picture there is no evidence, but there may be a border.
    below = np.zeros((ROWS // 4, n))
    depth_mm = (np.arange(ROWS + len(below)) + 0.5) * h
    prior = ((depth_mm - level_mm) / spread_mm) ** 2 / 2
    cost = prior[:, None] - np.vstack([coarse, below])
    rows = best_path(cost, bend=_BEND / step**2)
    columns = (np.arange(n) + 0.5) * step
    path = np.interp(np.arange(evidence.columns) + 0.5, columns, depth_mm[rows])
    path = smooth(path[None, :], 1e-3, 1.5 / h)[0]
    return np.asarray(path + 0.3 * random_curve(rng, evidence.columns, 5.0 / h))


def best_path(cost: Field, bend: float) -> np.ndarray:
    """Row in each column of the path of least cost (rows, columns), a step of k rows costing bend * k².

    Dynamic programming; steps reach as far as pays.
    """
    reach = min(12, cost.shape[0] - 1)
    offsets = np.arange(-reach, reach + 1)
    total = cost[:, 0]
    came = np.zeros(cost.shape, dtype=np.int64)
    rows = np.arange(cost.shape[0])
    for column in range(1, cost.shape[1]):
        padded = np.pad(total, reach, constant_values=np.inf)
        options = np.stack([padded[reach + k : reach + k + len(total)] + bend * k * k for k in offsets])
        choice = options.argmin(axis=0)
        came[:, column] = rows + offsets[choice]
        total = options[choice, rows] + cost[:, column]
    path = np.empty(cost.shape[1], dtype=np.int64)
    path[-1] = int(total.argmin())
    for column in range(cost.shape[1] - 1, 0, -1):
        path[column - 1] = came[path[column], column]
    return path
