"""What was measured, beside what it is compared with, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WIDE = 0.35
"""Spread (half the range between the quartiles, over the median) above which a run says nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the range between the quartiles, over the median; 0 for fewer than three."""
        if len(self.values) < 3:
            return 0.0
        low, _, high = statistics.quantiles(self.values, n=4)
        return (high - low) / 2 / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    reach    what is aimed at; the sense says whether more or less of it is good.
    against  the peer's measurements of the same rounds, if there is one: the figure is then the ratio.
    """

    what: str
    ours: Sample
    unit: str
    reach: float | None = None
    sense: Literal[">=", "<="] = ">="
    against: Sample | None = None
    peer: str = ""
    note: str = ""

    @property
    def value(self) -> float:
        """The ratio, round by round, or our own median."""
        if self.against is None:
            return self.ours.median
        return ratio(self.ours, self.against)

    @property
    def verdict(self) -> str:
        """In one word, for the table."""
        if self.is_noisy:
            return "too noisy to say"
        if self.reach is None:
            return ""
        good = self.value >= self.reach if self.sense == ">=" else self.value <= self.reach
        return "reached" if good else "missed"

    @property
    def is_noisy(self) -> bool:
        """Does the spread forbid a conclusion?"""
        samples = [self.ours] + ([self.against] if self.against else [])
        return any(sample.spread > WIDE for sample in samples)

    def row(self) -> str:
        """As a line of a Markdown table."""
        ours = f"{_short(self.ours.median)} {self.unit} (± {self.ours.spread:.0%})"
        theirs = ""
        if self.against is not None:
            median = f"{_short(self.against.median)} {self.unit}"
            theirs = f"{self.peer} {median} (± {self.against.spread:.0%})"
        value = f"**{_short(self.value)}x**" if self.against is not None else f"**{_short(self.value)}**"
        reach = "" if self.reach is None else f"{self.sense} {_short(self.reach)}"
        cells = (self.what, ours, theirs, value, reach, self.verdict, self.note)
        return "| " + " | ".join(cells) + " |"


HEAD = "| what | the node | the peer | figure | reach | | |\n| --- | --- | --- | --- | --- | --- | --- |"


def ratio(ours: Sample, theirs: Sample) -> float:
    """Median over the rounds of ours / theirs: each pair was measured within seconds of each other."""
    return statistics.median(a / b for a, b in zip(ours.values, theirs.values, strict=True))


def rates(count: int, seconds: Sequence[float]) -> Sample:
    """Times for `count` objects as objects a second."""
    return Sample(tuple(count / each for each in seconds))


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
