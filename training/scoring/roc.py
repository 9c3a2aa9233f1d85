"""Area under the ROC curve with DeLong's variance, for one test or two on the same cases; proportions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata

from training.scoring.intervals import Share, ends, resampled_sums

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve."""

    value: float
    low: float
    high: float
    """95 % by DeLong's variance: cases taken as independent."""
    groups: Share
    """The same by bootstrap over groups."""
    positives: int
    negatives: int


@dataclass(frozen=True)
class AucDifference:
    """Two scores of the same cases: first less second."""

    value: float
    low: float
    high: float
    p: float


def _placements(positives: Floats, negatives: Floats) -> tuple[float, Floats, Floats]:
    """AUC and the structural components: for each case, the share of the other class that it beats."""
    m, n = len(positives), len(negatives)
    together = rankdata(np.concatenate([positives, negatives]))
    beats = (together[:m] - rankdata(positives)) / n
    beaten = 1.0 - (together[m:] - rankdata(negatives)) / m
    return float(beats.mean()), np.asarray(beats), np.asarray(beaten)


def auc(positives: Floats, negatives: Floats) -> float:
    """Chance that a positive case scores above a negative one, ties count half (Mann-Whitney)."""
    return _placements(positives, negatives)[0]


def delong(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """AUCs (k,) of k scores (k, n) of the same cases, and their covariance (k, k).

    DeLong et al. 1988 (10.2307/2531595), by mid-ranks (Sun and Xu 2014, 10.1109/LSP.2014.2337313).
    """
    found = [_placements(row[positive], row[~positive]) for row in np.atleast_2d(scores)]
    values = np.array([one[0] for one in found])
    by_positive, by_negative = (np.stack([one[i] for one in found]) for i in (1, 2))
    covariance = np.cov(by_positive) / by_positive.shape[1] + np.cov(by_negative) / by_negative.shape[1]
    return values, np.atleast_2d(covariance)


def score_auc(scores: Floats, positive: NDArray[np.bool_], groups: Sequence[str]) -> Auc | None:
    """AUC with both intervals; None under two cases of either class."""
    m, n = int(positive.sum()), int((~positive).sum())
    if min(m, n) < 2:
        return None
    values, covariance = delong(scores, positive)
    half = 1.959964 * float(np.sqrt(max(0.0, covariance[0, 0])))
    value = float(values[0])
    low, high = ends(_resampled_aucs(scores, positive, groups))
    return Auc(
        round(value, 4), round(max(0.0, value - half), 4), round(min(1.0, value + half), 4),
        Share(round(value, 4), low, high), m, n,
    )  # fmt: skip


def compare_auc(first: Floats, second: Floats, positive: NDArray[np.bool_]) -> AucDifference:
    """Difference of two AUCs on the same cases with DeLong's test; p is 1 where its variance is 0."""
    values, s = delong(np.stack([first, second]), positive)
    difference = float(values[0] - values[1])
    deviation = float(np.sqrt(max(0.0, s[0, 0] + s[1, 1] - 2 * s[0, 1])))
    p = 2 * float(norm.sf(abs(difference) / deviation)) if deviation > 1e-12 else 1.0
    half = 1.959964 * deviation
    return AucDifference(
        round(difference, 4), round(difference - half, 4), round(difference + half, 4), round(p, 5)
    )


def _resampled_aucs(scores: Floats, positive: NDArray[np.bool_], groups: Sequence[str]) -> Floats:
    """AUC in resampled groups, each case weighted by how often its group was drawn."""
    order = np.argsort(scores, kind="stable")
    # The same draws for all cases of a group: resample the membership table itself.
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    weights = resampled_sums(np.eye(len(names)), names.tolist())[:, :-1][:, index[order]]
    positives = weights * positive[order]
    negatives = weights - positives
    # Ties count half: what lies below the first of equals, and half of the equals themselves.
    starts = np.searchsorted(scores[order], scores[order], side="left")
    stops = np.searchsorted(scores[order], scores[order], side="right")
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(negatives, axis=1)], axis=1)
    beaten = 0.5 * (below[:, starts] + below[:, stops])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((positives * beaten).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1)))


def wilson(successes: int, n: int) -> Share | None:
    """A proportion with Wilson's 95 % interval; None of nothing."""
    if n == 0:
        return None
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return Share(round(successes / n, 4), round(float(interval.low), 4), round(float(interval.high), 4))
