"""What a run of hostile cases came to: counts by mutation and outcome, the worst, the findings."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class _Line:
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    mib: float = 0.0


class Report:
    """Collects cases; a finding is anything that must not happen."""

    def __init__(self) -> None:
        """Begin empty."""
        self._lines: dict[str, _Line] = defaultdict(_Line)
        self.findings: list[str] = []

    @property
    def cases(self) -> int:
        """Cases so far."""
        return sum(line.outcomes.total() for line in self._lines.values())

    def case(self, mutation: str, outcome: str, seconds: float = 0.0, mib: float = 0.0) -> None:
        """Count one case: what was done to the input, how it ended, what it cost at the peak."""
        line = self._lines[mutation]
        line.outcomes[outcome] += 1
        line.seconds, line.mib = max(line.seconds, seconds), max(line.mib, mib)

    def finding(self, words: str) -> None:
        """Something that must not happen, in one line, with what makes it happen again."""
        self.findings.append(words)
        print(f"FINDING {words}", file=sys.stderr, flush=True)

    def table(self) -> str:
        """One line per mutation, then the findings."""
        width = max((len(name) for name in self._lines), default=8)
        lines = [f"{'mutation':{width}}  cases  worst s  worst MiB  outcomes"]
        for name, line in sorted(self._lines.items()):
            outcomes = ", ".join(f"{count} {outcome}" for outcome, count in line.outcomes.most_common())
            lines.append(
                f"{name:{width}}  {line.outcomes.total():5}  {line.seconds:7.2f}  {line.mib:9.0f}  {outcomes}"
            )
        worst_s = max((line.seconds for line in self._lines.values()), default=0.0)
        worst_mib = max((line.mib for line in self._lines.values()), default=0.0)
        lines.append(f"{'all':{width}}  {self.cases:5}  {worst_s:7.2f}  {worst_mib:9.0f}")
        lines += [f"FINDING {words}" for words in self.findings]
        return "\n".join(lines)
