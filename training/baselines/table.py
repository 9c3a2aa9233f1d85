"""One table: a model against each baseline, on the same pairs, by paired tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.config import TrainingConfig
from training.fitting.schedule import Schedule
from training.scoring.compare import Comparison, compare_scores
from training.scoring.report import WARNING, Scores

FORMAT, VERSION = "emode-baselines", 1
SIGNIFICANT = 0.05
DECISIVE = ("ncc", "ncc_lesion_box")
"""Measures on which a model has to be better than a baseline; the others are told."""

LABELS = {
    "mean-map": "mean map of the training pairs",
    "unet": "U-Net of equal size, no Transformer",
    "l1": "L1 only, no discriminators",
    "pix2pix": "pix2pix U-Net as published",
}


@dataclass(frozen=True)
class Candidate:
    """One model as it was scored."""

    name: str
    parameters: int
    images: int | None
    """How many pairs it was shown in training, repeats counted; None if that is not known here."""
    scores: Scores


@dataclass(frozen=True)
class Row:
    """One baseline against the model."""

    candidate: Candidate
    comparison: Comparison
    """The model first, the baseline second."""

    @property
    def beaten(self) -> bool:
        """Whether the model is better by each decisive measure that applies, and not by chance."""
        told = [one for key in DECISIVE if (one := self.comparison.measures.get(key)) is not None]
        return all(one.better_by.mean > 0 and one.sign_flip_holm < SIGNIFICANT for one in told)


def rows(model: Candidate, baselines: Sequence[Candidate]) -> list[Row]:
    """Compare a model with each baseline; raises what `compare_scores` raises.

    Tests are adjusted for the number of measures, not of baselines: the claim is to beat all of them.
    """
    return [Row(one, compare_scores(model.scores, one.scores)) for one in baselines]


def to_json(model: Candidate, table: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
    """Return the whole table as what JSON can hold; `about` says which data and configuration it is of."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "synthetic": True,
        "warning": WARNING,
        **about,
        "model": _described(model),
        "every_baseline_beaten": all(row.beaten for row in table),
        "baselines": [
            {
                **_described(row.candidate),
                "label": LABELS[row.candidate.name],
                "beaten": row.beaten,
                "comparison": row.comparison.to_json(),
            }
            for row in table
        ],
    }


def images_shown(config: TrainingConfig, pairs: int) -> int:
    """How many pairs a run of `fit` with this configuration is shown, repeats counted."""
    schedule = Schedule(config.phases, pairs)
    sizes = [phase.batch_size for phase in config.phases for _ in range(phase.epochs)]
    return sum(schedule.steps_of(epoch) * size for epoch, size in enumerate(sizes))


def _described(candidate: Candidate) -> dict[str, Any]:
    return {"name": candidate.name, "parameters": candidate.parameters, "images": candidate.images}
