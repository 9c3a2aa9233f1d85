"""Starting, and doing nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, Sample
from harness import Node, node_config

_IDLE_S = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(folder: Path, rounds: int) -> Iterator[Figure]:
    """All figures of this part."""
    starts: dict[str, list[float]] = {"receiver": [], "worker": []}
    for number in range(min(rounds, 5)):
        node = Node(folder / str(number), node_config(folder / str(number), {"pacs": ("PACS", 1)}))
        begun = time.monotonic()
        try:
            # As its clients see it: from the command to the line that says "ready".
            node.start(roles=("receiver",))
            starts["receiver"].append(time.monotonic() - begun)
            node.wait(lambda it=node: it.events("ready", role="worker"), "worker is ready", 120)
            starts["worker"].append(time.monotonic() - begun)
        finally:
            if number + 1 < min(rounds, 5):
                node.kill()
    for role, reach in (("receiver", 3.0), ("worker", 15.0)):
        what = "with weights loaded" if role == "worker" else "listening"
        yield Figure(f"start to ready: {role}, {what}", Sample(tuple(starts[role])), "s", reach, "<=")
    try:
        time.sleep(3)
        yield from _idle(node)
    finally:
        node.kill()


def _idle(node: Node) -> Iterator[Figure]:
    assert node.supervisor_pid is not None
    pids = {"supervisor": node.supervisor_pid, **node.pids()}
    before, begun = sum(map(_cpu_s, pids.values())), time.monotonic()
    time.sleep(_IDLE_S)
    percent = 100 * (sum(map(_cpu_s, pids.values())) - before) / (time.monotonic() - begun)
    yield Figure("idle: CPU of all processes", Sample((percent,)), "% of a core", 1.0, "<=")
    mib = {role: _pss_mib(pid) for role, pid in pids.items()}
    without = sum(size for role, size in mib.items() if role != "worker")
    note = ", ".join(f"{role} {size:.0f}" for role, size in mib.items())
    yield Figure("idle: memory without the worker (PSS)", Sample((without,)), "MiB", 400, "<=", note=note)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _pss_mib(pid: int) -> float:
    """Resident memory, what is shared divided among those who share it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
