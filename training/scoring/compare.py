"""Two models on the same pairs: paired differences, intervals, and tests that allow for many measures."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.errors import ScoresDiffer, TooFewPairs
from training.scoring.intervals import Interval, bootstrap
from training.scoring.ledger import FEWEST
from training.scoring.measures import MEASURES
from training.scoring.paired import group_means, holm, sign_flip_p, wilcoxon_p
from training.scoring.report import WARNING, Scores, without_nan

FORMAT, VERSION = "emode-comparison", 1


@dataclass(frozen=True)
class MeasureComparison:
    """One measure of two models."""

    first: Interval
    second: Interval
    better_by: Interval
    """Paired difference, above 0 where the first is better, whatever the measure's direction."""
    wilcoxon_p: float
    sign_flip_p: float
    """Permutation test of the mean difference; both tests are two-sided and over groups."""
    wilcoxon_holm: float
    sign_flip_holm: float
    """Adjusted by Holm for the number of measures compared."""


@dataclass(frozen=True)
class Comparison:
    """The first model against the second."""

    pairs: int
    groups: int
    measures: dict[str, MeasureComparison]
    """By key of MEASURES; those that apply to three groups or more."""

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold, each measure beside its label and direction."""
        measures = {
            key: {
                "label": MEASURES[key].label,
                "better": MEASURES[key].better,
                "range": MEASURES[key].range,
                **asdict(one),
            }
            for key, one in self.measures.items()
        }
        head = {"format": FORMAT, "version": VERSION, "synthetic": True, "warning": WARNING}
        plain: dict[str, Any] = without_nan(
            {**head, "pairs": self.pairs, "groups": self.groups, "measures": measures}
        )
        return plain


def compare_scores(a: Scores, b: Scores) -> Comparison:
    """Compare two models scored on the same pairs in the same order, measure by measure.

    A pair counts for a measure only where it applies to both models. Raises ScoresDiffer if the pairs
    are not the same, TooFewPairs under three groups.
    """
    if a.names != b.names or a.groups != b.groups:
        raise ScoresDiffer(f"{len(a.names)} and {len(b.names)} pairs, or other names or groups")
    if (n := len(set(a.groups))) < FEWEST:
        raise TooFewPairs(f"pairs of {n} groups (patients) to compare on, at least {FEWEST} are needed")
    groups = np.asarray(a.groups)
    intervals: dict[str, tuple[Interval, Interval, Interval]] = {}
    ranks: list[float] = []
    flips: list[float] = []
    for key, told in MEASURES.items():
        first, second = a.values[key], b.values[key]
        both = np.isfinite(first) & np.isfinite(second)
        names = groups[both].tolist()
        if len(set(names)) < FEWEST:
            continue
        gain = first[both] - second[both] if told.better == "more" else second[both] - first[both]
        by_group = group_means(gain, names)
        intervals[key] = (
            bootstrap(first[both], names),
            bootstrap(second[both], names),
            bootstrap(gain, names),
        )
        ranks.append(wilcoxon_p(by_group))
        flips.append(sign_flip_p(by_group))
    tests = zip(ranks, flips, holm(ranks), holm(flips), strict=True)
    measures = {
        key: MeasureComparison(*found, *(round(p, 5) for p in ps))
        for (key, found), ps in zip(intervals.items(), tests, strict=True)
    }
    return Comparison(len(groups), n, measures)
