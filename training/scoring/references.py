"""What gives a score its meaning: guessing without looking, and measuring twice."""

import zlib
from collections.abc import Iterable

import cv2
import numpy as np

from training.errors import TooFewPairs
from training.scoring.regions import Map
from training.simulator.noise import random_field

RELATIVE_GRID = 64
"""The mean map is averaged on this grid, stretched over every frame: as good a guess as can be
made without looking at the image."""

REPEAT_SCAN_CHANGE = 0.25
"""Two strain scans of one lesion differ by about this much, smoothly over the frame."""


def stretch(map_: Map, shape: tuple[int, int]) -> Map:
    """Resize a map to (H, W), aspect ignored."""
    shrinking = shape[0] < map_.shape[0]
    mode = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(map_, (shape[1], shape[0]), interpolation=mode), dtype=np.float32)


class MeanMap:
    """The average of maps on the relative grid, one at a time: it holds sums, never the maps."""

    def __init__(self) -> None:
        self.count = 0
        self._total = np.zeros((RELATIVE_GRID, RELATIVE_GRID))

    def add(self, map_: Map) -> None:
        self._total += stretch(map_, (RELATIVE_GRID, RELATIVE_GRID))
        self.count += 1

    def map(self, *, without: Map | None = None) -> Map:
        """Return the mean (RELATIVE_GRID, RELATIVE_GRID); `without` takes one added map out of it.

        Raises TooFewPairs where nothing is left.
        """
        total, count = self._total, self.count
        if without is not None:
            total, count = total - stretch(without, (RELATIVE_GRID, RELATIVE_GRID)), count - 1
        if count < 1:
            raise TooFewPairs("no map to average")
        return np.asarray(total / count, dtype=np.float32)


def mean_map(strains: Iterable[Map]) -> Map:
    """Average true maps on the relative grid (RELATIVE_GRID, RELATIVE_GRID), reading them one by one."""
    mean = MeanMap()
    for strain in strains:
        mean.add(strain)
    return mean.map()


def repeat_scan(strain: Map, seed: int | None = None) -> Map:
    """Perturb a true map as a second acquisition would: smooth, multiplicative, REPEAT_SCAN_CHANGE.

    seed  None takes it from the map, so that a pair has the same second scan in every evaluation.
    """
    if seed is None:
        seed = zlib.crc32(np.ascontiguousarray(strain).tobytes())
    sigma = strain.shape[0] / 10
    rng = np.random.default_rng(seed)
    change = random_field(rng, (strain.shape[0], strain.shape[1]), sigma, sigma)
    return np.clip(strain * (1 + REPEAT_SCAN_CHANGE * change), 0, 1).astype(np.float32)
