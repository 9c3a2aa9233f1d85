"""Tests of paired differences, and Holm's correction for many of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

Floats = NDArray[np.float64]

PERMUTATIONS = 10_000
EXACT_UP_TO = 12
"""Groups up to which all 2^n sign flips are tried."""


def group_means(differences: Floats, groups: Sequence[str]) -> Floats:
    """One mean for each group: frames of one patient are not independent, patients are."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    return np.asarray(np.bincount(index, differences) / np.bincount(index))


def wilcoxon_p(differences: Floats) -> float:
    """Two-sided Wilcoxon signed-rank test, zeros dropped; 1 where all differences are zero."""
    some = differences[differences != 0]
    return float(wilcoxon(some).pvalue) if len(some) else 1.0


def sign_flip_p(differences: Floats, seed: int = 0) -> float:
    """Two-sided permutation test of the mean: each difference could as well have had the other sign.

    Exact up to EXACT_UP_TO differences; above, PERMUTATIONS drawn flips, never below
    1 / (PERMUTATIONS + 1) (Phipson and Smyth 2010, 10.2202/1544-6115.1585).
    """
    n = len(differences)
    reached = abs(differences.sum()) * (1 - 1e-12)
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((abs(signs @ differences) >= reached).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(10):  # in parts, so that memory stays small with many groups
        signs = rng.integers(0, 2, (PERMUTATIONS // 10, n), dtype=np.int8) * 2 - 1
        hits += int((abs(signs @ differences) >= reached).sum())
    return (hits + 1) / (PERMUTATIONS + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values for their number: Holm 1979, step-down, order kept."""
    order = np.argsort(p)
    stepped = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return [float(value) for value in adjusted]
