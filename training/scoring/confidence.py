"""Does a model know where it is wrong: its own expected error held against the true one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from training.scoring.intervals import Interval, Share, bootstrap, ends, resampled_sums
from training.scoring.regions import Map

Floats = NDArray[np.float64]

REMOVED = tuple(round(0.1 * i, 1) for i in range(10))
"""Shares taken away, from none to nine tenths, for sparsification."""

COVERAGE = (0.5, 0.9)
"""Intervals whose promise is checked: half-width -ln(1 - c) times the Laplace scale."""

_SAMPLES = 20_000
"""Pixels of one frame that are ranked; neighbours repeat each other anyway."""


@dataclass(frozen=True)
class PixelScores:
    """How the spread of one frame goes with its error."""

    spearman: float
    mean_spread: float
    mean_error: float
    by_spread: tuple[float, ...]
    """Mean error of what is left after the least certain share of REMOVED is taken away."""
    by_error: tuple[float, ...]
    """The same with the most erroneous pixels taken away: no spread can do better."""
    covered: tuple[float, ...]
    """Share of pixels inside each interval of COVERAGE."""


@dataclass(frozen=True)
class ConfidenceReport:
    """Spread and confidence against error, over all pairs that had them; None for what was not there."""

    pairs: int
    pixel_spearman: Interval
    """Rank correlation of spread and error over the pixels of one frame; above 0 it points at errors."""
    image_spearman: Share | None
    """Of a frame's mean spread and its mean error, over frames."""
    removed: tuple[float, ...]
    by_spread: tuple[float, ...]
    by_error: tuple[float, ...]
    sparsification_gain: float | None
    """How much of the best possible fall in error the spread gives: 0 is random, 1 perfect order."""
    coverage: dict[str, float]
    """Share of pixels inside the interval that should hold that share."""
    confidence_spearman: Share | None
    """Of a frame's confidence and its NCC; above 0 confident frames are better."""
    confidence_error: Interval | None
    """|confidence - NCC|: confidence is the NCC that a bundle expects."""
    ncc_by_confidence: tuple[float, ...] | None
    """Mean NCC of what is left after the least confident share of `removed` frames is taken away."""


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation, -1 to 1; 0 where either is constant."""
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else 0.0


def sparsify(error: Floats, order_by: Floats) -> tuple[float, ...]:
    """Mean error of what is left when the largest of `order_by` go first, at each share of REMOVED."""
    kept = error[np.argsort(order_by, kind="stable")]
    n = len(kept)
    return tuple(float(kept[: max(1, n - round(share * n))].mean()) for share in REMOVED)


def score_pixels(spread: Map, error: Map) -> PixelScores:
    """Score the spread of one frame: the expected absolute error against the true one, both (H, W)."""
    step = max(1, int(np.ceil(np.sqrt(error.size / _SAMPLES))))
    e, s = (np.asarray(map_[::step, ::step], np.float64).ravel() for map_ in (error, spread))
    covered = tuple(float((e <= -np.log(1 - share) * s).mean()) for share in COVERAGE)
    return PixelScores(
        spearman(s, e), float(s.mean()), float(e.mean()), sparsify(e, s), sparsify(e, e), covered
    )


def summarise(
    pixels: Sequence[PixelScores],
    groups: Sequence[str],
    confidence: Sequence[float],
    nccs: Sequence[float],
    confidence_groups: Sequence[str],
) -> ConfidenceReport | None:
    """Bring the frames together; None without any spread, or under three frames.

    pixels, groups  one for each frame with a spread; confidence, nccs and confidence_groups one for
                    each frame with a confidence.
    """
    if len(pixels) < 3:
        return None
    by_spread = np.mean([one.by_spread for one in pixels], axis=0)
    by_error = np.mean([one.by_error for one in pixels], axis=0)
    possible = float((by_error[0] - by_error).sum())
    gained = float((by_spread[0] - by_spread).sum())
    covered = np.mean([one.covered for one in pixels], axis=0)
    known = len(confidence) >= 3
    return ConfidenceReport(
        pairs=len(pixels),
        pixel_spearman=bootstrap([one.spearman for one in pixels], groups),
        image_spearman=_spearman_share(
            [one.mean_spread for one in pixels], [one.mean_error for one in pixels], groups
        ),
        removed=REMOVED,
        by_spread=_rounded(by_spread),
        by_error=_rounded(by_error),
        sparsification_gain=round(gained / possible, 4) if possible > 1e-9 else None,
        coverage={f"{c:.0%}": round(float(v), 4) for c, v in zip(COVERAGE, covered, strict=True)},
        confidence_spearman=_spearman_share(confidence, nccs, confidence_groups) if known else None,
        confidence_error=bootstrap(abs(np.subtract(confidence, nccs)), confidence_groups) if known else None,
        ncc_by_confidence=_rounded(sparsify(np.asarray(nccs), -np.asarray(confidence))) if known else None,
    )


def _spearman_share(a: Sequence[float], b: Sequence[float], groups: Sequence[str]) -> Share:
    """Spearman's correlation with a bootstrap interval over groups, ranks taken once."""
    x, y = rankdata(a), rankdata(b)
    sums = resampled_sums(np.column_stack([x, y, x * x, y * y, x * y]), groups)
    mx, my, xx, yy, xy = (sums[:, i] / sums[:, 5] for i in range(5))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (xy - mx * my) / np.sqrt((xx - mx * mx) * (yy - my * my))
    low, high = ends(np.asarray(drawn))
    return Share(round(spearman(np.asarray(a), np.asarray(b)), 4), low, high)


def _rounded(values: Sequence[float] | Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
