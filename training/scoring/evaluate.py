"""Evaluation: generated strain beside what ignoring the image, or scanning twice, would score.

Pairs are read, measured and let go one batch at a time: what stays is a row of numbers for each.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from model.generator import GeneratorSpec
from model.inference import Elastogram
from model.preprocess import Frame
from training.errors import TooFewPairs
from training.pairs.pair import Pair
from training.scoring.ledger import FEWEST, Ledger, group_of, name_of
from training.scoring.measures import MEASURES, Palette, Truth, luma, measure
from training.scoring.references import MeanMap, repeat_scan, stretch
from training.scoring.regions import Map
from training.scoring.report import Report, Scores
from training.scoring.sources import Pairs

BATCH = 16
"""Pairs in memory at a time: what a GPU takes at once."""


class Predicts(Protocol):
    """What gives elastograms for frames: a Predictor, or a generator in training."""

    def predict(self, frames: Sequence[Frame]) -> list[Elastogram]: ...


def evaluate(
    predictor: Predicts,
    pairs: Pairs,
    *,
    training_mean: Map | None,
    simulated: bool,
    palette: Palette | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Score a predictor on pairs that it was not trained on.

    training_mean  from `mean_map` over the training set; None takes the mean of the other
                   pairs given here, which is at least as hard to beat.
    palette        how the predictor paints strain; None takes the default of bundles.

    Raises TooFewPairs under three pairs, or where they all come from fewer than three groups.
    """
    if len(pairs) < FEWEST:
        raise TooFewPairs(f"{len(pairs)} to evaluate on, at least {FEWEST} are needed")
    paint = palette or Palette.of(GeneratorSpec())
    mean = _mean_of_all(pairs) if training_mean is None else None
    ledger = Ledger()
    for done, (pair, made, other) in enumerate(_with_others(predictor, pairs), start=1):
        truth = Truth.of(pair, paint)
        shape = (pair.strain.shape[0], pair.strain.shape[1])
        guess = training_mean if mean is None else mean.map(without=pair.strain)
        assert guess is not None
        maps = {
            "mean_map": stretch(guess, shape),
            "shuffled": stretch(other, shape),
            "repeat_scan": repeat_scan(pair.strain),
        }
        measured = {"generated": measure(made.strain, luma(made.colour), truth)}
        for name, map_ in maps.items():
            measured[name] = measure(map_, luma(paint.paint(map_, pair.bmode)), truth)
        ledger.add(done - 1, pair, made, truth.clinical, measured)
        progress(done)
    return ledger.report(
        simulated=simulated,
        mean_map_from="the other pairs of this set" if training_mean is None else "the training set",
    )


def score(
    predictor: Predicts,
    pairs: Pairs,
    *,
    palette: Palette | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Measure the generated maps alone, without floors and ceiling: what comparing two models needs."""
    paint = palette or Palette.of(GeneratorSpec())
    names, groups = [], []
    columns: dict[str, list[float]] = {key: [] for key in MEASURES}
    for done, (pair, made) in enumerate(_predicted(predictor, pairs), start=1):
        names.append(name_of(pair, done - 1))
        groups.append(group_of(pair, done - 1))
        measured = measure(made.strain, luma(made.colour), Truth.of(pair, paint))
        for key, value in measured.values.items():
            columns[key].append(value)
        progress(done)
    return Scores(tuple(names), tuple(groups), {key: np.asarray(column) for key, column in columns.items()})


def _mean_of_all(pairs: Pairs) -> MeanMap:
    mean = MeanMap()
    for i in range(len(pairs)):
        mean.add(pairs[i].strain)
    return mean


def _predicted(predictor: Predicts, pairs: Pairs) -> Iterator[tuple[Pair, Elastogram]]:
    for start in range(0, len(pairs), BATCH):
        batch = [pairs[i] for i in range(start, min(start + BATCH, len(pairs)))]
        made = predictor.predict([pair.bmode for pair in batch])
        while batch:  # each is let go as soon as it is scored
            yield batch.pop(0), made.pop(0)


def _with_others(predictor: Predicts, pairs: Pairs) -> Iterator[tuple[Pair, Elastogram, Map]]:
    """Each pair with its elastogram and the generated strain of another group, the nearest before it.

    Before the first group there is none: it takes the last pair of another one. Where all pairs are
    of one group, the pair before will have to do.
    """
    first = group_of(pairs[0], 0)
    last = next((i for i in range(len(pairs) - 1, 0, -1) if group_of(pairs[i], i) != first), len(pairs) - 1)
    other = predictor.predict([pairs[last].bmode])[0].strain
    before, before_group = other, ""
    for i, (pair, made) in enumerate(_predicted(predictor, pairs)):
        group = group_of(pair, i)
        if before_group and before_group != group:
            other = before
        yield pair, made, other
        before, before_group = made.strain, group
