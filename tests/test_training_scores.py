"""Similarity of maps: known answers, and other people's implementations."""

import math

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from skimage.feature import match_template
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from training.scoring.measures import luma
from training.scoring.scores import (
    PSNR_LIMIT,
    gradient_similarity,
    mae,
    ncc,
    ncc_shifted,
    psnr,
    ssim,
)


def smooth_map(seed: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).random(shape), 5)
    return ((field - field.min()) / (field.max() - field.min())).astype(np.float32)


def test_ncc_is_pearson():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30, 40)).astype(np.float32)
    assert ncc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-6)
    assert ncc(a, 2 * a + 1) == pytest.approx(1.0)
    assert ncc(a, 1 - a) == pytest.approx(-1.0)
    assert ncc(a, np.full_like(a, 0.3)) == 0.0


def test_shifted_ncc_is_template_matching():
    truth, candidate = smooth_map(1), smooth_map(2)
    reach = 7  # an eighth of 60 rows
    reference = match_template(truth, candidate[reach:-reach, reach:-reach])
    assert ncc_shifted(candidate, truth) == pytest.approx(reference.max(), abs=1e-4)


def test_a_shift_costs_ncc_but_not_its_best_over_shifts():
    truth = smooth_map(3, (96, 96))
    moved = np.roll(truth, (5, -6), axis=(0, 1))
    assert ncc(moved, truth) < 0.75
    assert ncc_shifted(moved, truth) == pytest.approx(1.0, abs=1e-4)
    assert ncc_shifted(np.roll(truth, 20, axis=1), truth) < 0.9
    assert ncc_shifted(np.full_like(truth, 0.5), truth) == 0.0
    assert ncc_shifted(truth, np.full_like(truth, 0.5)) == 0.0


def test_ssim_is_that_of_wang():
    a, b = smooth_map(4), smooth_map(5)
    reference = structural_similarity(
        a.astype(np.float64), b.astype(np.float64), data_range=1.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(a, b) == pytest.approx(reference, abs=1e-6)
    assert ssim(a, a) == pytest.approx(1.0)
    assert math.isnan(ssim(a[:10], b[:10]))


def test_psnr_and_mae():
    a, b = smooth_map(6), smooth_map(7)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), abs=1e-4)
    zero = np.zeros((4, 5), np.float32)
    assert psnr(zero, zero + np.float32(0.1)) == pytest.approx(20.0, abs=1e-5)
    assert psnr(a, a) == PSNR_LIMIT
    assert mae(zero, zero + np.float32(0.25)) == 0.25


def test_gradient_similarity_by_hand():
    """Two ramps: gradients are g and h everywhere, so c = h^2 / 4 and the answer is one fraction."""
    columns = np.arange(200, dtype=np.float64)
    h, g = 0.004, 0.002
    truth, candidate = (np.tile(slope * columns, (60, 1)).astype(np.float32) for slope in (h, g))
    c = h * h / 4
    inside = (2 * g * h + c) / (g * g + h * h + c)
    # The reflected border flattens both alike; it is a few columns of 200.
    assert gradient_similarity(candidate, truth) == pytest.approx(inside, abs=0.01)
    assert gradient_similarity(truth, truth) == pytest.approx(1.0)


def test_gradient_similarity_sees_blur_that_a_fixed_constant_does_not():
    truth = 0.4 + 0.2 * smooth_map(8)
    blurred = gaussian_filter(truth, 5).astype(np.float32)
    assert ncc(blurred, truth) > 0.9
    assert gradient_similarity(blurred, truth) < 0.87
    assert gradient_similarity(np.full_like(truth, 0.5), truth) < 0.5
    g, h = (gaussian_gradient_magnitude(map_, 1.5) for map_ in (blurred, truth))
    assert ((2 * g * h + 0.0026) / (g * g + h * h + 0.0026)).mean() > 0.98


def test_luma_is_that_of_bt_601():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(luma(colours), [[0.299, 0.587, 0.114, 1.0]], atol=1 / 255)
    assert luma(cv2.cvtColor(np.full((2, 2), 100, np.uint8), cv2.COLOR_GRAY2RGB)) == pytest.approx(100 / 255)
