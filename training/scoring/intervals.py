"""Means over pairs with their uncertainty, by drawing groups: many frames of one patient count once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 2000
_CHUNK = 1_000_000
"""Numbers drawn at a time, so that memory does not grow with the number of groups."""


@dataclass(frozen=True)
class Interval:
    """A mean over pairs with its 95 % bootstrap interval, and how the pairs spread around it."""

    mean: float
    low: float
    high: float
    deviation: float
    n: int
    groups: int
    median: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Share:
    """A quotient of means with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def resampled_sums(values: Floats, groups: Sequence[str], seed: int = 0, draws: int = DRAWS) -> Floats:
    """Draw groups with replacement and add up their rows: (n, k) -> (draws, k + 1), counts last.

    The same groups and seed give the same draws, whatever the values and their order.
    """
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    n_groups = int(index.max()) + 1
    counted = np.column_stack([values, np.ones(len(values))])
    totals = np.zeros((n_groups, counted.shape[1]))
    np.add.at(totals, index, counted)
    return np.concatenate([drawn @ totals for drawn in _drawn_groups(n_groups, seed, draws)])


def _drawn_groups(n_groups: int, seed: int, draws: int) -> Iterator[NDArray[np.int64]]:
    """How often each group comes up in each draw: (some draws, n_groups) at a time."""
    if n_groups * draws <= _CHUNK:
        yield _all_drawn_groups(n_groups, seed, draws)
        return
    rng = np.random.default_rng(seed)
    even, step = np.full(n_groups, 1.0 / n_groups), max(1, _CHUNK // n_groups)
    for start in range(0, draws, step):
        yield rng.multinomial(n_groups, even, size=min(step, draws - start))


@lru_cache(maxsize=8)
def _all_drawn_groups(n_groups: int, seed: int, draws: int) -> NDArray[np.int64]:
    # One evaluation asks for the same draws some hundred times.
    return np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), size=draws)


def resampled_means(values: Floats, groups: Sequence[str], seed: int = 0, draws: int = DRAWS) -> Floats:
    """Means over pairs in resampled groups: (n, k) -> (draws, k)."""
    sums = resampled_sums(values, groups, seed, draws)
    return np.asarray(sums[:, :-1] / sums[:, -1:])


def ends(draws: Floats) -> tuple[float, float]:
    """The percentile interval of 95 %, draws that are not a number left out; NaN if none is one."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def bootstrap(
    values: Sequence[float] | Floats, groups: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """Mean over pairs and percentile interval over groups; every pair is a group of its own without them."""
    data = np.asarray(values, dtype=np.float64)
    names = groups if groups is not None else [f"{i:09d}" for i in range(len(data))]
    low, high = ends(resampled_means(data[:, None], names, seed)[:, 0])
    facts = (data.mean(), low, high, data.std(), np.median(data), data.min(), data.max())
    mean, low, high, deviation, median, least, greatest = (round(float(v), 4) for v in facts)
    return Interval(mean, low, high, deviation, len(data), len(set(names)), median, least, greatest)


def share_of_way(
    score: Floats,
    floor: Floats,
    ceiling: Floats,
    groups: Sequence[str],
    better: Literal["more", "less"] = "more",
    seed: int = 0,
) -> Share | None:
    """How far a mean score has come from the floor's mean (0) to the ceiling's (1); above 1 is beyond it.

    Works for scores of which less is better too. None where the ceiling is not better than the floor
    beyond chance (the 95 % interval of their difference holds 0), for then the quotient says nothing.
    """
    together = np.column_stack([score, floor, ceiling])
    at, bottom, top = together.mean(axis=0)
    means = resampled_means(together, groups, seed)
    least, most = np.percentile(means[:, 2] - means[:, 1], [2.5, 97.5])
    if least <= 0 if better == "more" else most >= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (means[:, 0] - means[:, 1]) / (means[:, 2] - means[:, 1])
    low, high = ends(np.asarray(drawn))
    return Share(round(float((at - bottom) / (top - bottom)), 4), low, high)
