"""`make bench`, or one part of it: `make bench PARTS=receiving,sending ROUNDS=3`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from bench import gpu, growth, latency, receive, sending, standing
from bench.figures import HEAD, Figure
from bench.report import text_of
from dicom_node.telemetry.log import set_up_logging
from published import publish

PARTS = {
    "receiving": receive.measure,
    "latency": latency.measure,
    "sending": sending.measure,
    "standing": standing.measure,
    "growth": growth.measure,
    "gpu": gpu.measure,
}


def main() -> int:
    """Measure, print, and write the document if one is named."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (ROUNDS)")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, by comma (PARTS)")
    parser.add_argument("--folder", type=Path, help="work on this disk (default: a temporary folder)")
    parser.add_argument("--report", type=Path, help="document to write the table into (REPORT)")
    given = parser.parse_args()
    set_up_logging("error", "text")
    parts: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="emode-bench-") as place:
        for name in given.parts.split(","):
            _say(f"\n{name}\n{HEAD}")
            parts[name] = []
            for figure in PARTS[name](Path(place) / name, given.rounds):
                parts[name].append(figure)
                _say(figure.row())
            if not parts[name]:
                _say(gpu.NOT_MEASURED)
    if given.report:
        publish(text_of(parts, given.rounds), given.report, "bench")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
