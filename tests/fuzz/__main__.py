"""`make fuzz`: half of the cases are data sets, half go through the network."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time

from fuzz import datasets, wire
from fuzz.report import Report


def main() -> int:
    """Run, print the table; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="in all")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same cases")
    parser.add_argument("--only", choices=["datasets", "network"], help="one half alone, with all the cases")
    parser.add_argument("--case", type=int, help="one data set alone, by the number that a finding names")
    arguments = parser.parse_args()
    if arguments.case is not None:
        datasets.run(1, arguments.seed, report := Report(), first=arguments.case)
        print(report.table())
        return 1 if report.findings else 0
    halves = {"datasets": datasets.run}
    if importlib.util.find_spec("fuzz.network") is not None:
        from fuzz import network

        halves["network"] = network.run
    if arguments.only:
        halves = {arguments.only: halves[arguments.only]}
    report, started = Report(), time.monotonic()
    for number, half in enumerate(halves.values()):
        share = arguments.cases // len(halves)
        half(share + (arguments.cases % len(halves) if number == 0 else 0), arguments.seed, report)
    if arguments.only != "network":
        wire.run(min(100, arguments.cases), arguments.seed, report)
    print(report.table())
    print(f"{report.cases} cases in {time.monotonic() - started:.0f} s, seed {arguments.seed}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
