"""Fit how sure a model is: its doubt on held-out pairs beside how right it was there."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from model.confidence import Calibration
from training.errors import TooFewPairs

MOST_KNOTS = 12
MIN_PAIRS = 20
_PAIRS_PER_KNOT = 8


def fit_confidence(doubts: Sequence[float], nccs: Sequence[float], *, simulated: bool) -> Calibration:
    """Fit expected NCC to doubt by means of equal groups, made to fall (isotonic regression).

    doubts  `model.confidence.doubt_of` each elastogram.
    nccs    NCC of the same ones with the true strain, whole frame, on pairs never trained on.

    Raises TooFewPairs under MIN_PAIRS pairs. Barlow & Brunk 1972, 10.1080/01621459.1972.10481216.
    """
    if len(doubts) < MIN_PAIRS:
        raise TooFewPairs(f"{len(doubts)} to calibrate confidence on, at least {MIN_PAIRS} are needed")
    order = np.argsort(doubts, kind="stable")
    x, y = np.asarray(doubts, np.float64)[order], np.asarray(nccs, np.float64)[order]
    groups = np.array_split(np.arange(len(x)), min(MOST_KNOTS, len(x) // _PAIRS_PER_KNOT))
    middles = np.array([x[group].mean() for group in groups])
    means = np.array([y[group].mean() for group in groups])
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    falling = isotonic_regression(means, weights=sizes, increasing=False).x
    # Pairs without any difference in doubt make one knot.
    middles, first = np.unique(middles, return_index=True)
    return Calibration(middles, falling[first], len(x), simulated)
