"""Scoring on real B-mode with lesion masks and labels, where no true strain is known.

What can be asked there: are lesions drawn harder than their surroundings, and are malignant ones drawn
harder than benign ones; both beside what the B-mode's brightness, or no look at all, would answer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TooFewStills
from training.pairs.stills import Still
from training.scoring.clinical import Clinical, read
from training.scoring.evaluate import Predicts
from training.scoring.intervals import Interval, Share, bootstrap
from training.scoring.ledger import FEWEST
from training.scoring.references import MeanMap, stretch
from training.scoring.regions import LesionRegions, Map, lesion_regions
from training.scoring.report import WARNING, plain, without_nan
from training.scoring.roc import Auc, AucDifference, compare_auc, score_auc, wilson

FORMAT, VERSION = "emode-stills", 1

CANDIDATES = ("generated", "mean_map", "brightness")
"""What is read at each lesion: the generated strain, the floor that does not look at the image, and the
floor that looks without learning: the B-mode itself, dark taken for hard."""

CEILING = "expected"
"""Read as well where strains are drawn for the stills: their mean, which knows label and mask."""

RATIOS = ("strain_ratio", "fat_ratio")
SCORES = (*RATIOS, "eb_ratio", "hard_share", "tsukuba", "contrast")
"""Readings by which malignant may be told from benign; the strain ratios are the ones to quote."""


@dataclass(frozen=True)
class SignRate:
    """How often lesions are harder than their surroundings, two ways."""

    ring: Share | None
    """Than the ring of 2.5 mm around them; Wilson's interval."""
    reference: Share | None
    """Than the reference beside them: strain ratio above 1."""
    ring_groups: Interval | None
    """The first, with the interval over groups."""


@dataclass(frozen=True)
class Discrimination:
    """Malignant against benign by one reading."""

    auc: Auc
    above: dict[str, AucDifference]
    """Generated less floor, DeLong's paired test; empty for the floors themselves."""


@dataclass(frozen=True)
class StillsReport:
    """The result on one folder of stills."""

    stills: int
    lesions: int
    groups: int
    labels: dict[str, int]
    mean_map_from: str
    agreement: float
    """Mean self-check of the two heads, 0 is perfect."""
    harder: dict[str, dict[str, SignRate]]
    """By candidate (CANDIDATES, and CEILING where it was asked for), then "all" or a label."""
    auc: dict[str, dict[str, Discrimination]]
    """By score, then candidate; empty without two of each label."""
    distributions: dict[str, dict[str, Interval]]
    """Of the generated maps: by label with three groups or more, then score."""
    bounds: int
    """Generated strain ratios that are bounds, by clipping; they are ranked by their value."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One for each lesion: name in the index, group, label and readings."""

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        head = {"format": FORMAT, "version": VERSION, "synthetic": True, "warning": WARNING}
        found: dict[str, Any] = without_nan({**head, **plain(self)})
        return found


@dataclass
class _Lesions:
    """What is kept of each lesion: names and readings."""

    names: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    read: dict[str, list[Clinical]] = field(default_factory=lambda: {name: [] for name in CANDIDATES})

    @property
    def floors(self) -> list[str]:
        return [name for name in self.read if name not in ("generated", CEILING)]

    def column(self, candidate: str, score: str) -> NDArray[np.float64]:
        """One reading of all lesions; a strain ratio by its value, even where that is a bound."""
        found = [getattr(one, score) for one in self.read[candidate]]
        values = [one.value for one in found] if score in RATIOS else found
        return np.asarray(values, dtype=np.float64)


def score_stills(
    predictor: Predicts,
    stills: Callable[[], Iterable[Still]],
    *,
    training_mean: Map | None,
    expected: Callable[[Still], Map] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> StillsReport:
    """Score a predictor on stills with masks; those without a lesion count for the self-check alone.

    stills         gives the stills anew at each call; they are read one at a time, twice without a
                   training mean.
    training_mean  from `mean_map` over training pairs; None takes the mean of the maps generated here,
                   which has no look at the single image either.
    expected       what strain a still has on average by its label and mask: the ceiling beside the floors.

    Raises TooFewStills where lesions come from fewer than three groups.
    """
    found, mean = _Lesions(), MeanMap()
    agreements: list[float] = []
    for done, still in enumerate(stills(), start=1):
        made = predictor.predict([still.frame])[0]
        agreements.append(made.agreement)
        mean.add(made.strain)
        regions = regions_of(still)
        if regions is not None:
            found.names.append(still.name)
            found.groups.append(still.group)
            found.labels.append(still.label)
            found.read["generated"].append(read(made.strain, regions))
            found.read["brightness"].append(read(_brightness(still), regions))
            if expected is not None:
                found.read.setdefault(CEILING, []).append(read(expected(still), regions))
            if training_mean is not None:
                found.read["mean_map"].append(_read_stretched(training_mean, regions))
        progress(done)
    if (n := len(set(found.groups))) < FEWEST:
        raise TooFewStills(f"lesions of {n} groups among {len(agreements)} stills, {FEWEST} are needed")
    if training_mean is None:
        guess = mean.map()
        found.read["mean_map"] += [_read_stretched(guess, regions) for _, regions in with_lesions(stills())]
    return _summed_up(found, agreements, training_mean is not None)


def regions_of(still: Still) -> LesionRegions | None:
    """Regions of the still's largest lesion; its scale is unknown. None without a lesion."""
    return None if still.mask is None else lesion_regions(still.mask, 0.0)


def with_lesions(stills: Iterable[Still]) -> Iterator[tuple[Still, LesionRegions]]:
    """Leave out stills without a lesion."""
    for still in stills:
        regions = regions_of(still)
        if regions is not None:
            yield still, regions


def _brightness(still: Still) -> Map:
    return np.asarray(still.frame, dtype=np.float32) / np.float32(255)


def _read_stretched(map_: Map, regions: LesionRegions) -> Clinical:
    shape = (regions.lesion.shape[0], regions.lesion.shape[1])
    return read(stretch(map_, shape), regions)


def _summed_up(found: _Lesions, agreements: Sequence[float], from_training: bool) -> StillsReport:
    labels, groups = np.asarray(found.labels), np.asarray(found.groups)
    chosen = {"all": np.ones(len(labels), dtype=bool)}
    chosen |= {str(label): labels == label for label in np.unique(labels)}
    rows = [
        {"name": name, "group": group, "label": label, **plain(reading)}
        for name, group, label, reading in zip(
            found.names, found.groups, found.labels, found.read["generated"], strict=True
        )
    ]
    return StillsReport(
        stills=len(agreements),
        lesions=len(labels),
        groups=len(set(found.groups)),
        labels={label: int(where.sum()) for label, where in chosen.items() if label != "all"},
        mean_map_from="the training set" if from_training else "the maps generated here",
        agreement=round(float(np.mean(agreements)), 5),
        harder={
            name: {label: _sign_rate(found, name, where, groups) for label, where in chosen.items()}
            for name in found.read
        },
        auc=_discrimination(found, labels, groups),
        distributions={
            label: {
                score: bootstrap(found.column("generated", score)[where], groups[where].tolist())
                for score in SCORES
            }
            for label, where in chosen.items()
            if len(np.unique(groups[where])) >= FEWEST
        },
        bounds=sum(bool(one.strain_ratio.bound) for one in found.read["generated"]),
        rows=without_nan(rows, digits=4),
    )


def _sign_rate(found: _Lesions, name: str, where: NDArray[np.bool_], groups: NDArray[np.str_]) -> SignRate:
    ring = found.column(name, "contrast")[where] > 0
    reference = found.column(name, "strain_ratio")[where] > 1
    names = groups[where].tolist()
    enough = len(set(names)) >= FEWEST
    return SignRate(
        wilson(int(ring.sum()), len(ring)),
        wilson(int(reference.sum()), len(reference)),
        bootstrap(ring.astype(float), names) if enough else None,
    )


def _discrimination(
    found: _Lesions, labels: NDArray[np.str_], groups: NDArray[np.str_]
) -> dict[str, dict[str, Discrimination]]:
    """AUC of each score, malignant against benign; empty without two of each."""
    judged = (labels == "malignant") | (labels == "benign")
    positive, names = labels[judged] == "malignant", groups[judged].tolist()
    result: dict[str, dict[str, Discrimination]] = {}
    for score in SCORES:
        columns = {name: found.column(name, score)[judged] for name in found.read}
        for name, column in columns.items():
            area = score_auc(column, positive, names)
            if area is None:
                return {}
            floors = found.floors if name == "generated" else []
            above = {other: compare_auc(column, columns[other], positive) for other in floors}
            result.setdefault(score, {})[name] = Discrimination(area, above)
    return result
