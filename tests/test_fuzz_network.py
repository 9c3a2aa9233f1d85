"""A few hundred of the hostile conversations of `make fuzz`, always the same ones."""

from __future__ import annotations

from fuzz import network
from fuzz.report import Report


def test_hostile_conversations_of_the_corpus() -> None:
    report = Report()
    network.run(250, 20240, report, visits=300)
    assert report.findings == []
    assert report.cases >= 250
