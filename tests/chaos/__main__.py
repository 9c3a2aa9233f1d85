"""`make chaos N=500 SEED=1`."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.campaign import run_campaign
from chaos.plan import SHARES
from published import publish


def main() -> int:
    """Run one campaign; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--count", type=int, default=25, help="faults to inflict (N)")
    parser.add_argument("--seed", type=int, help="which faults; drawn if not given (SEED)")
    parser.add_argument("--folder", type=Path, help="work here; must not exist (default: a temporary one)")
    parser.add_argument("--report", type=Path, help="document to write the table into (REPORT)")
    parser.add_argument("--without", default="", help=f"kinds to leave out, by comma: {', '.join(SHARES)}")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(10**6)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="emode-chaos-")) / "world"
    without = tuple(filter(None, arguments.without.split(",")))
    report = run_campaign(folder, arguments.count, seed, without=without)
    (folder / "report.json").write_text(report.as_json())
    sys.stdout.write(report.text() + "\n")
    if arguments.report:
        publish(report.markdown(), arguments.report, "chaos")
    if report.holds and arguments.folder is None:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
