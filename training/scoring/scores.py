"""How alike two maps are: similarity and distance, on whole maps, boxes or sets of pixels.

All take maps in [0, 1] on the same pixels. What each number can and cannot tell is written for
people in docs/training.md; `measures.py` says which of them is taken where.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_gradient_magnitude

from training.scoring.regions import Map

SHIFT_REACH = 8
"""Pixels that `ncc_shifted` may move a map, as registration of two panes would."""

SSIM_RADIUS, SSIM_SIGMA = 5, 1.5
PSNR_LIMIT = 100.0
"""Of equal maps, so that a mean over pairs stays finite. 8-bit rounding alone gives 59 dB."""

_GRADIENT_SIGMA = 1.5
_GRADIENT_CONSTANT = 0.25


def ncc(a: Map, b: Map) -> float:
    """Normalised cross-correlation at zero shift, -1 to 1; 0 where either map is constant.

    sum (a - mean a)(b - mean b) / sqrt(sum (a - mean a)^2 sum (b - mean b)^2): Pearson's r over pixels.
    """
    x, y = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 1e-12 else 0.0


def ncc_shifted(candidate: Map, truth: Map, reach: int = SHIFT_REACH) -> float:
    """Largest NCC over shifts of up to `reach` pixels each way, -1 to 1: template matching.

    The candidate without its outer `reach` pixels is the template, with the local mean and
    deviation of the truth beneath it. The reach shrinks to an eighth of a small frame's side.
    """
    reach = min(reach, min(truth.shape) // 8)
    rows, columns = truth.shape
    template = candidate[reach : rows - reach, reach : columns - reach]
    if float(template.std()) < 1e-6 or float(truth.std()) < 1e-6:
        return 0.0  # matchTemplate calls a constant a perfect match
    image, small = (np.ascontiguousarray(map_, np.float32) for map_ in (truth, template))
    found = cv2.matchTemplate(image, small, cv2.TM_CCOEFF_NORMED)
    return float(np.clip(found, -1, 1).max())


def ssim(a: Map, b: Map) -> float:
    """Structural similarity, -1 to 1: Wang et al. 2004 (10.1109/TIP.2003.819861).

    Gaussian window of 11 x 11, sigma 1.5, K 0.01 and 0.03, range 1, population covariance, mean over
    windows that lie wholly inside; NaN where none does.
    """
    r = SSIM_RADIUS
    if min(a.shape) <= 2 * r:
        return float("nan")
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def local_mean(field: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred = cv2.GaussianBlur(field, (2 * r + 1, 2 * r + 1), SSIM_SIGMA)
        return np.asarray(blurred[r:-r, r:-r], dtype=np.float64)

    mx, my = local_mean(x), local_mean(y)
    vx, vy = local_mean(x * x) - mx * mx, local_mean(y * y) - my * my
    covariance = local_mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mx * my + c1) * (2 * covariance + c2)
    return float((top / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


def mae(a: Map, b: Map) -> float:
    """Mean absolute error, 0 (equal) to 1."""
    return float(np.abs(np.asarray(a, np.float64) - b).mean())


def psnr(a: Map, b: Map) -> float:
    """Peak signal-to-noise ratio in dB for range 1: 10 log10(1 / mean squared error), PSNR_LIMIT if equal."""
    error = float(np.square(np.asarray(a, np.float64) - b).mean())
    return min(PSNR_LIMIT, -10.0 * float(np.log10(error))) if error > 0 else PSNR_LIMIT


def gradient_similarity(candidate: Map, truth: Map) -> float:
    """Mean similarity of gradient magnitudes, 0 to 1: edges where they belong and as steep.

    mean of (2 g h + c) / (g^2 + h^2 + c) after Xue et al. 2014 (10.1109/TIP.2013.2293423), with two
    choices of ours: g, h are gradients of Gaussian-smoothed maps (sigma 1.5 pixels), as strain is
    stored in 8 bits; and c is a quarter of the truth's mean squared gradient. Their fixed constant
    is made for photographs: with it even a map without any edge scores 0.97 on simulated strain.
    """
    g, h = (
        gaussian_gradient_magnitude(np.asarray(map_, np.float64), _GRADIENT_SIGMA)
        for map_ in (candidate, truth)
    )
    c = max(_GRADIENT_CONSTANT * float((h * h).mean()), 1e-12)
    return float(((2 * g * h + c) / (g * g + h * h + c)).mean())
