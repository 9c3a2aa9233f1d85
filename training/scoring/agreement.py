"""Agreement of two ratings on an ordered scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.scoring.intervals import Interval, Share, bootstrap, ends, resampled_sums

STAGES = 5


@dataclass(frozen=True)
class Agreement:
    """How often two ratings from 1 to 5 agree."""

    exact: Interval
    within_one: Interval
    kappa: Share | None
    """Quadratic-weighted kappa, 1 is perfect, 0 is chance; None where a rating never varies."""


def weighted_kappa(table: NDArray[np.float64]) -> float:
    """Cohen's kappa with quadratic weights of a (k, k) table of counts: 1 - sum w n / sum w e.

    w = (i - j)^2, e the counts expected from the margins (Cohen 1968, 10.1037/h0026256). NaN where all
    ratings are one and the same, for then chance explains everything.
    """
    k = len(table)
    weight = np.subtract.outer(np.arange(k), np.arange(k)) ** 2
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    by_chance = float((weight * expected).sum())
    return 1.0 - float((weight * table).sum()) / by_chance if by_chance > 0 else float("nan")


def agreement(truth: Sequence[int], rated: Sequence[int], groups: Sequence[str]) -> Agreement:
    """Compare ratings from 1 to 5, with bootstrap over groups."""
    a, b = np.asarray(truth), np.asarray(rated)
    cells = np.zeros((len(a), STAGES * STAGES))
    cells[np.arange(len(a)), (a - 1) * STAGES + (b - 1)] = 1.0
    kappa = weighted_kappa(cells.sum(axis=0).reshape(STAGES, STAGES))
    share = None
    if np.isfinite(kappa):
        drawn = resampled_sums(cells, groups)[:, :-1]
        low, high = ends(np.array([weighted_kappa(one.reshape(STAGES, STAGES)) for one in drawn]))
        share = Share(round(kappa, 4), low, high)
    return Agreement(
        bootstrap((a == b).astype(float), groups), bootstrap((abs(a - b) <= 1).astype(float), groups), share
    )
