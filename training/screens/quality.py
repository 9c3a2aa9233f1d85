"""How far a pair read off a screen can be believed: measures, one score, and the reason to leave it out."""

from dataclasses import asdict, dataclass
from typing import Any

from training.screens.reasons import Reason, Rejection

THRESHOLD = 0.5

_TERMS: dict[str, tuple[Reason, float, float]] = {
    # measure -> reason, value that scores 1, value that scores 0
    "masked_share": (Reason.TOO_MUCH_MASKED, 0.0, 0.40),
    "left_out": (Reason.TOO_MUCH_MASKED, 0.25, 0.95),
    "distance": (Reason.TOO_MUCH_MASKED, 4.0, 60.0),
    "residual": (Reason.BLEND_NOT_LINEAR, 3.0, 21.0),
    "disagreement": (Reason.BLEND_NOT_LINEAR, 0.03, 0.17),
    "correlation": (Reason.MISALIGNED, 0.70, 0.10),
    "saturated_share": (Reason.SATURATED, 0.10, 0.50),
}


@dataclass(frozen=True)
class Quality:
    """The measures of one pair."""

    masked_share: float
    """Of the region of interest, where no strain was to be read."""
    left_out: float
    """Of the coloured area, outside the region of interest."""
    distance: float
    """Median distance of colours from the table, in its levels."""
    residual: float
    """Levels by which the overlay, rendered again from what was found, differs from the screen's."""
    disagreement: float
    """Between alpha by speckle and by chroma."""
    correlation: float | None
    """Of fine structure between the panes, registered; None where an opaque overlay leaves none."""
    saturated_share: float
    """Of the strain, at an end of the table."""

    @property
    def score(self) -> float:
        """0 to 1: a pair is as good as its worst measure."""
        return min(self._scores().values())

    @property
    def worst(self) -> str:
        """The measure that decides."""
        scores = self._scores()
        return min(scores, key=lambda name: scores[name])

    def judge(self, threshold: float = THRESHOLD) -> Rejection | None:
        """Leave out what scores less than the threshold, with the reason and figure of its worst measure."""
        if self.score >= threshold:
            return None
        fact = f"{self.worst} is {getattr(self, self.worst):.3g}, which scores {self.score:.2f}"
        return Rejection(_TERMS[self.worst][0], fact)

    def to_json(self) -> dict[str, Any]:
        rounded = {k: None if v is None else round(v, 4) for k, v in asdict(self).items()}
        return rounded | {"score": round(self.score, 4), "worst": self.worst}

    def _scores(self) -> dict[str, float]:
        values = {name: getattr(self, name) for name in _TERMS}
        return {
            name: min(1.0, max(0.0, (values[name] - zero) / (full - zero)))
            for name, (_, full, zero) in _TERMS.items()
            if values[name] is not None
        }
