"""What one evaluation found, and how it is written down: the JSON is documented in docs/training.md."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.scoring.agreement import Agreement
from training.scoring.confidence import ConfidenceReport
from training.scoring.intervals import Interval, Share
from training.scoring.measures import MEASURES

FORMAT, VERSION = "emode-evaluation", 1
WARNING = "Scores of synthetic elastograms. Not validated on patients. Research use only."


@dataclass(frozen=True)
class Region:
    """One measure: the generated maps, the two floors and a repeat scan."""

    generated: Interval
    mean_map: Interval
    """A map that ignores the image."""
    shuffled: Interval
    """The generated map of another image."""
    repeat_scan: Interval
    """The true map, perturbed as in a second scan: how well measuring twice agrees. In frames of
    little contrast it can score below a good prediction, so it is a reference, not a bound."""
    above_mean_map: Interval
    """Paired difference between generated and mean map; above 0 the generated one is better."""
    share_of_way: Share | None
    """How far the generated mean has come from the mean map's (0) to the repeat scan's (1)."""


@dataclass(frozen=True)
class StrainRatios:
    """How many strain ratios could be compared; the others are bounds, by clipping."""

    compared: int
    bounds: int
    typical_factor: float | None
    """exp of the mean error: a generated ratio is off by about this factor, either way."""


@dataclass(frozen=True)
class Scores:
    """Every measure of the generated maps, one value for each pair; what `compare_scores` takes."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    values: dict[str, NDArray[np.float64]]
    """By key of MEASURES: float64 (n,), NaN where the measure does not apply."""


@dataclass(frozen=True)
class Report:
    """The result of one evaluation."""

    pairs: int
    groups: int
    simulated: bool
    mean_map_from: str
    agreement: float
    """Mean self-check of the two heads, 0 is perfect."""
    image: Region
    """NCC over the whole image."""
    lesion_box: Region | None
    """NCC in the lesion box."""
    measures: dict[str, Region]
    """All measures, these two among them, by key of MEASURES; those that apply to three groups or more."""
    strain_ratio: StrainRatios
    tsukuba: dict[str, Agreement]
    """Of the suggestions on the generated map, the mean map and a repeat scan with that on the true map."""
    by_kind: dict[str, dict[str, Region]]
    """NCC and contrast sign for each kind of lesion."""
    confidence: ConfidenceReport | None
    scores: Scores
    per_pair: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold: no NaN, and each measure beside its label and direction.

        `scores` is left out: `per_pair` says the same.
        """
        found: dict[str, Any] = {one.name: plain(getattr(self, one.name)) for one in fields(self)}
        del found["scores"]
        for key, measured in found["measures"].items():
            told = MEASURES[key]
            measured |= {"label": told.label, "better": told.better, "range": told.range}
        head = {"format": FORMAT, "version": VERSION, "synthetic": True, "warning": WARNING}
        return {**head, **without_nan(found)}


def plain(value: Any) -> Any:
    """Dataclasses anywhere inside, as dictionaries."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def without_nan(value: Any, digits: int | None = None) -> Any:
    """Copy nested data for JSON: NaN and infinity become null, floats are rounded if asked."""
    if isinstance(value, dict):
        return {key: without_nan(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one, digits) for one in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else round(value, digits)
    return value
