"""Strain as a machine measures it: noisy displacement, and the slope of a window of it.

Least-squares slopes over a window are those of Kallel and Ophir 1997 (10.1177/016173469701900303).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, median_filter, uniform_filter1d
from scipy.signal import savgol_filter

Field = NDArray[np.float64]

SAMPLE_MM = 0.4
"""Spacing of the displacement estimates, both ways."""


@dataclass(frozen=True)
class Estimator:
    """How strain is made of displacement; lengths in mm."""

    window: float
    """Height over which a slope is fitted."""
    aside: float
    """Width over which slopes are averaged."""
    noise: float
    """Error of a slope at the surface, relative to the mean strain."""
    growth: float
    """How many times larger it is at the bottom of the image."""
    median: int
    """Width of the median filter at the end, in samples; 1 is none."""


def draw_estimator(rng: np.random.Generator) -> Estimator:
    """Draw the settings of one machine; noise is that of strain filters at an SNR of 8 to 30."""
    return Estimator(
        window=rng.uniform(1.8, 3.2),
        aside=rng.uniform(0.8, 2.4),
        noise=rng.uniform(0.02, 0.06),
        growth=rng.uniform(1.2, 2.5),
        median=int(rng.choice([1, 3])),
    )


def estimate_strain(
    displacement: Field, quality: Field, estimator: Estimator, rng: np.random.Generator
) -> Field:
    """Estimate axial strain, positive where tissue is compressed.

    displacement  (rows, columns) mm downward, SAMPLE_MM apart.
    quality       the same shape, 1 where echoes are strong, less where they drown in noise.
    """
    rows = displacement.shape[0]
    clean = _slopes(displacement, estimator)
    depth = np.linspace(0.0, 1.0, rows)[:, None]
    # Errors of neighbouring beams are alike: they share their echoes.
    errors = gaussian_filter(rng.normal(size=displacement.shape), (0.6, 1.2))
    errors *= (1 + (estimator.growth - 1) * depth**1.5) / np.clip(quality, 0.4, 1.0)
    slopes = _slopes(errors, estimator)
    top = max(float(np.std(slopes[: max(rows // 4, 4)])), 1e-12)
    strain = clean + slopes * (estimator.noise * abs(float(np.mean(clean))) / top)
    return np.asarray(median_filter(strain, estimator.median)) if estimator.median > 1 else strain


def _slopes(displacement: Field, estimator: Estimator) -> Field:
    """How much displacement falls with depth: the slope of a straight line through each window."""
    samples = max(3, round(estimator.window / SAMPLE_MM) | 1)
    slopes = -savgol_filter(displacement, samples, 1, deriv=1, delta=SAMPLE_MM, axis=0, mode="interp")
    aside = max(1, round(estimator.aside / SAMPLE_MM))
    averaged: Field = uniform_filter1d(slopes, aside, axis=1, mode="nearest")
    return averaged
