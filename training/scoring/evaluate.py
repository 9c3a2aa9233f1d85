"""Evaluation: NCC of generated strain beside what ignoring the image, or scanning twice, would score."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from model.inference import Elastogram
from model.preprocess import Frame
from training.errors import TooFewPairs
from training.pairs.pair import Pair
from training.scoring.scores import (
    Interval,
    Map,
    bootstrap,
    lesion_box,
    mean_map,
    ncc,
    repeat_scan,
    stretch,
)

CANDIDATES = ("generated", "mean_map", "shuffled", "repeat_scan")


class Predicts(Protocol):
    """What gives elastograms for frames: a Predictor, or a generator in training."""

    def predict(self, frames: Sequence[Frame]) -> list[Elastogram]: ...


@dataclass(frozen=True)
class Region:
    """NCC in one region: the generated maps, the two floors and a repeat scan."""

    generated: Interval
    mean_map: Interval
    """A map that ignores the image."""
    shuffled: Interval
    """The generated map of another image."""
    repeat_scan: Interval
    """The true map, perturbed as in a second scan: how well measuring twice agrees. In frames of
    little contrast it can score below a good prediction, so it is a reference, not a bound."""
    above_mean_map: Interval
    """Paired difference between generated and mean map."""


@dataclass(frozen=True)
class Report:
    """The result of one evaluation."""

    pairs: int
    simulated: bool
    mean_map_from: str
    agreement: float
    """Mean self-check of the two heads, 0 is perfect."""
    image: Region
    lesion_box: Region | None
    per_pair: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    predictor: Predicts,
    pairs: Sequence[Pair],
    *,
    training_mean: Map | None,
    simulated: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Score a predictor on pairs that it was not trained on.

    training_mean  from `mean_map` over the training set; None takes the mean of the other
                   pairs given here, which is at least as hard to beat.

    Raises TooFewPairs under three pairs.
    """
    if len(pairs) < 3:
        raise TooFewPairs(f"{len(pairs)} to evaluate on, at least 3 are needed")
    made = []
    for i, pair in enumerate(pairs):
        made += predictor.predict([pair.bmode])
        progress(i + 1)
    means = [training_mean] * len(pairs) if training_mean is not None else _means_of_others(pairs)
    image: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    lesion: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    rows: list[dict[str, Any]] = []
    for i, (pair, mean) in enumerate(zip(pairs, means, strict=True)):
        shape = (pair.strain.shape[0], pair.strain.shape[1])
        maps = {
            "generated": made[i].strain,
            "mean_map": stretch(mean, shape),
            "shuffled": stretch(made[(i + 1) % len(made)].strain, shape),
            "repeat_scan": repeat_scan(pair.strain, i),
        }
        row: dict[str, Any] = {**pair.info, "image": round(ncc(made[i].strain, pair.strain), 4)}
        for name, map_ in maps.items():
            image[name].append(ncc(map_, pair.strain))
        if pair.mask is not None:
            box = lesion_box(pair.mask)
            for name, map_ in maps.items():
                lesion[name].append(ncc(map_[box], pair.strain[box]))
            row["lesion_box"] = round(lesion["generated"][-1], 4)
        rows.append(row)
    return Report(
        pairs=len(pairs),
        simulated=simulated,
        mean_map_from="the other pairs of this set" if training_mean is None else "the training set",
        agreement=round(float(np.mean([one.agreement for one in made])), 5),
        image=_region(image),
        lesion_box=_region(lesion) if len(lesion["generated"]) >= 3 else None,
        per_pair=rows,
    )


def _means_of_others(pairs: Sequence[Pair]) -> list[Map]:
    """For each pair, the mean map of all the others."""
    total = mean_map([pair.strain for pair in pairs]) * len(pairs)
    others = len(pairs) - 1
    return [((total - mean_map([pair.strain])) / others).astype(np.float32) for pair in pairs]


def _region(scores: dict[str, list[float]]) -> Region:
    above = np.subtract(scores["generated"], scores["mean_map"]).tolist()
    intervals = {name: bootstrap(values) for name, values in scores.items()}
    return Region(**intervals, above_mean_map=bootstrap(above))
