"""The table of a campaign: for people, for machines, for the published contract."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from chaos.verdict import Verdict
from published import machine


@dataclass(slots=True)
class Report:
    """What was done, what was found."""

    seed: int
    count: int
    without: tuple[str, ...]
    faults: dict[str, int]
    steps: dict[str, int]
    not_reached: dict[str, int]
    """Steps that nothing came by within the time given; the process was killed at another instant instead."""
    failures: list[str]
    """Faults that the campaign could not inflict: its own trouble."""
    verdict: Verdict
    faults_s: float
    seconds: float
    quiet: bool
    node_actions: dict[str, int]
    kept_in: str = ""
    machine: str = field(default_factory=machine)
    at: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))

    @property
    def holds(self) -> bool:
        """All promises kept, and all faults inflicted."""
        return self.verdict.holds and self.quiet and not self.failures

    @property
    def command(self) -> str:
        """What draws the same faults again."""
        without = f" WITHOUT='{','.join(self.without)}'" if self.without else ""
        return f"make chaos N={self.count} SEED={self.seed}{without}"

    def rows(self) -> list[tuple[str, str, str]]:
        """(group, what, number), in the order of the table."""
        rows = [("fault", kind, str(number)) for kind, number in sorted(self.faults.items())]
        rows.append(("fault", "all faults", str(sum(self.faults.values()))))
        rows.append(("fault", "named steps reached", f"{len(self.steps)} ({min_max(self.steps)} times each)"))
        rows += [("total", what, str(number)) for what, number in self.verdict.totals.items()]
        rows += [("must be 0", what, str(number)) for what, number in self.verdict.wrong.items()]
        return rows

    def text(self) -> str:
        """For a terminal."""
        lines = [
            f"{self.command}: {self.faults_s:.0f} s of faults, {self.seconds:.0f} s in all; {self.machine}"
        ]
        width = max(len(what) for _, what, _ in self.rows())
        group_before = ""
        for group, what, number in self.rows():
            shown = group if group != group_before else ""
            group_before = group
            mark = "  <-- WRONG" if group == "must be 0" and number != "0" else ""
            lines.append(f"{shown:<10} {what:<{width}} {number:>6}{mark}")
        for what, found in self.verdict.examples.items():
            lines += [f"{what}:", *(f"  {each}" for each in found)]
        if self.not_reached:
            lines.append(f"steps not reached in time: {self.not_reached}")
        if self.failures:
            lines += ["faults that could not be inflicted:", *(f"  {each}" for each in self.failures)]
        if not self.quiet:
            lines.append("the node did not come to rest")
        if self.holds:
            lines.append("KEPT: nothing lost, nothing twice, nothing missing, nothing left over.")
        else:
            lines.append(f"NOT KEPT. The folder is left for study: {self.kept_in}\nAgain: {self.command}")
        return "\n".join(lines)

    def as_json(self) -> str:
        """The same and more."""
        facts: dict[str, Any] = asdict(self) | {"holds": self.holds, "command": self.command}
        return json.dumps(facts, indent=2)

    def markdown(self) -> str:
        """The part of `docs/reliability.md` between the markers."""
        head = [
            f"`{self.command}`, {self.at}, {self.machine}: {self.seconds:.0f} s. "
            + ("All promises kept." if self.holds else "**Not all promises kept.**"),
            "",
            "| | | |",
            "| --- | --- | --- |",
        ]
        return "\n".join([*head, *(f"| {group} | {what} | {n} |" for group, what, n in self.rows())])


def min_max(counts: dict[str, int]) -> str:
    """`2` or `2 to 5`."""
    if not counts:
        return "0"
    low, high = min(counts.values()), max(counts.values())
    return str(low) if low == high else f"{low} to {high}"
