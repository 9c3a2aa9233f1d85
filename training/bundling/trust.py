"""From pairs and stills to what a bundle knows of its own limits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.confidence import doubt_of
from model.look import Values, look_of
from model.preprocess import Frame
from model.trust import Trust
from training.pairs.folder import PairFolder, open_folder
from training.pairs.pair import Pair
from training.pairs.split import side_of
from training.pairs.stills import read_stills
from training.scoring.confidence import spearman
from training.scoring.evaluate import Predicts
from training.scoring.scores import ncc
from training.trust.confidence import fit_confidence
from training.trust.familiarity import LOOKS_PER_FRAME, fit_familiarity, gather, meet_strangers
from training.trust.looks import vary
from training.trust.report import judge

MOST_FRAMES = 400
"""Frames of a folder of pairs that a reference is fitted on, evenly spread: more say nothing more."""
_FRESH_SEED = 7


@dataclass(frozen=True, eq=False)
class Fitted:
    """What goes into the bundle, and what was found while fitting it, for its metrics."""

    trust: Trust
    metrics: dict[str, Any]


def fit_trust(
    predictor: Predicts,
    training: Path,
    held_out: Path,
    stills: Path | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Fitted:
    """Fit familiarity on training frames and stills, and confidence on held-out pairs.

    training  folder of pairs that the network was trained on: their B-mode is familiar.
    held_out  folder of pairs that it was not: how doubt and NCC go together there. Without spread in the
              predictor's elastograms there is no confidence.
    stills    folder of real B-mode stills (see training.pairs.stills); their training side is familiar, on
              the validation side flags are counted. Without, real frames are judged by what is simulated.

    Raises TooFewFrames, TooFewPairs, and what reading raises.
    """
    progress("simulated and training frames")
    known, unseen = open_folder(training), open_folder(held_out)
    # With stills, these need no varied looks: they stand for themselves.
    looks = LOOKS_PER_FRAME if stills is None else 0
    sources = [gather("training pairs", _frames(known), looks=looks)]
    good: dict[str, Sequence[Values]] = {"held-out pairs": [look_of(frame) for _, frame in _frames(unseen)]}
    begin = [frame for _, frame in _frames(known)]
    if stills is not None:
        progress("stills")
        found = [(still.group, still.frame) for still in read_stills(stills)]
        ours = [one for one in found if side_of(one[0]) == "training"]
        others = [frame for group, frame in found if side_of(group) != "training"]
        sources.insert(0, gather("stills", ours))
        good["stills of validation groups"] = [look_of(frame) for frame in others]
        rng = np.random.default_rng(_FRESH_SEED)
        good["their varied looks"] = [look_of(vary(rng, frame)) for frame in others]
        begin = [frame for _, frame in ours]
    progress("other pictures")
    kinds, fresh = meet_strangers(begin), meet_strangers(begin, seed=_FRESH_SEED)
    familiarity = fit_familiarity(sources, kinds)
    metrics: dict[str, Any] = {"familiarity": judge(sources, kinds, good, fresh).to_json()}
    progress("confidence")
    doubts, nccs = _doubts(predictor, unseen)
    confidence = fit_confidence(doubts, nccs, simulated=unseen.simulated) if doubts else None
    if confidence is not None:
        metrics["confidence"] = _cross_validated(doubts, nccs, unseen.simulated)
    return Fitted(Trust(familiarity, confidence), metrics)


def _frames(folder: PairFolder) -> Iterator[tuple[str, Frame]]:
    for number, pair in _spread_out(folder):
        yield str(pair.info.get("group", number)), pair.bmode


def _spread_out(folder: PairFolder) -> Iterator[tuple[int, Pair]]:
    count = min(len(folder), MOST_FRAMES)
    for number in np.linspace(0, len(folder) - 1, count).round().astype(int) if count else ():
        yield int(number), folder.read(int(number))


def _doubts(predictor: Predicts, folder: PairFolder) -> tuple[list[float], list[float]]:
    doubts, nccs = [], []
    for _, pair in _spread_out(folder):
        (made,) = predictor.predict([pair.bmode])
        if made.spread is None:
            return [], []
        doubts.append(doubt_of(made.strain, made.spread))
        nccs.append(ncc(made.strain, pair.strain))
    return doubts, nccs


def _cross_validated(doubts: list[float], nccs: list[float], simulated: bool) -> dict[str, float]:
    """Error of confidence on pairs that it was not fitted on (5 folds), and of the mean NCC in its place."""
    x, y = np.array(doubts), np.array(nccs)
    folds = np.arange(len(x)) % 5
    told, plain = np.empty(len(x)), np.empty(len(x))
    for fold in range(5):
        out = folds == fold
        fitted = fit_confidence(x[~out].tolist(), y[~out].tolist(), simulated=simulated)
        told[out] = [fitted.confidence_of(doubt) for doubt in x[out]]
        plain[out] = y[~out].mean()
    return {
        "pairs": len(x),
        "rank_correlation": round(spearman(-x, y), 4),
        "mean_error": round(float(np.abs(told - y).mean()), 4),
        "mean_error_of_the_mean": round(float(np.abs(plain - y).mean()), 4),
        "bias": round(float((told - y).mean()), 4),
    }
