"""Smooth random curves and fields: the raw material of simulated anatomy."""

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]


def smooth(field: Field, sigma_y: float, sigma_x: float) -> Field:
    """Gaussian smoothing, sigmas in pixels, edges reflected; the mean is kept."""
    if min(sigma_y, sigma_x) <= 0:
        raise ValueError(f"sigmas must be positive, got {sigma_y}, {sigma_x}")
    return np.asarray(
        cv2.GaussianBlur(field, (0, 0), sigmaX=sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_REFLECT_101)
    )


def soft_step(value: Field, softness: float) -> Field:
    """Soft threshold: 0 well below zero, 1 well above."""
    return np.asarray(np.clip(0.5 + value / (2 * softness), 0.0, 1.0))


def random_field(rng: np.random.Generator, shape: tuple[int, int], sigma_y: float, sigma_x: float) -> Field:
    """Gaussian random field with zero mean and unit deviation; sigmas in pixels."""
    # Drawn coarse where it is smooth anyway: a third of the cost of simulate lay here.
    step = max(1, int(min(sigma_y, sigma_x) / 3))
    coarse = (shape[0] // step + 2, shape[1] // step + 2)
    field = smooth(rng.standard_normal(coarse), sigma_y / step, sigma_x / step)
    fine = cv2.resize(field, (coarse[1] * step, coarse[0] * step), interpolation=cv2.INTER_CUBIC)
    cut = np.asarray(fine, dtype=np.float64)[: shape[0], : shape[1]]
    return np.asarray((cut - cut.mean()) / (cut.std() + 1e-9))


def random_curve(rng: np.random.Generator, length: int, sigma: float) -> Field:
    """Smooth random curve (length,) with zero mean and unit deviation; sigma in pixels."""
    margin = int(4 * sigma) + 1
    row = rng.standard_normal((1, length + 2 * margin))
    curve = smooth(row, 1e-3, sigma)[0, margin : margin + length]
    return np.asarray((curve - curve.mean()) / (curve.std() + 1e-9))
