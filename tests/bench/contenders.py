"""Who receives: this node, Orthanc, storescp. Who sends: DCMTK's dcmsend, the same for all."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import Node, node_config
from peers.dcmtk import StoreScp, find_tool
from peers.loopback import build_shim, peer_environment
from peers.orthanc import Orthanc


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who takes objects."""

    name: str
    ae_title: str
    port: int
    pids: tuple[int, ...] = ()
    """Its processes, where their memory is of interest."""


@contextmanager
def receivers(folder: Path) -> Iterator[list[Contender]]:
    """The node's receivers alone, Orthanc, storescp, each on an empty folder of the same disk."""
    node = Node(folder / "node", node_config(folder / "node", {"pacs": ("PACS", 1)}), only=("receiver",))
    try:
        node.start(roles=("receiver",))
        node.wait(lambda: node.events("node-ready"), "all receivers are ready")
        with Orthanc(folder / "orthanc") as archive, StoreScp(folder / "storescp") as plain:
            yield [
                Contender("node", "EMODE", node.port, tuple(node.pids().values())),
                Contender("Orthanc", "PACS", archive.port),
                Contender("storescp", plain.aet, plain.port),
            ]
    finally:
        node.stop()


def send(to: Contender, *groups: Sequence[Path], line: StartLine | None = None) -> float:
    """Send each group over an association of its own, all at once; return seconds until the last has ended.

    line  from when they are all about to call; else from when the first is started

    Raises AssertionError if an object was not taken.
    """
    tool = find_tool("dcmsend")
    assert tool is not None, "dcmsend is missing: run deploy/install-test-peers.sh"
    command = [str(tool), "--no-uid-checks", "-aec", to.ae_title, "127.0.0.1", str(to.port)]
    os.sync()  # what others have left to be written must not be charged to this one
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            [*command, *map(str, group)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | (line.environment if line else peer_environment()),
            pass_fds=line.descriptors if line else (),
        )
        for group in groups
    ]
    if line is not None:
        line.start(len(running))
        started = time.perf_counter()
    ends = [process.communicate()[1] for process in running]
    seconds = time.perf_counter() - started
    for process, said in zip(running, ends, strict=True):
        assert process.returncode == 0, f"{to.name}: dcmsend {process.returncode} {said.decode()[-500:]}"
    return seconds


class StartLine:
    """Where senders wait for each other once they have started (`start_line.c`): for one `send`.

    Without a C compiler nobody waits, and what they take to start counts.
    """

    _PATIENCE_S = 10.0

    def __init__(self) -> None:
        """Draw it."""
        self._at_line, ready = os.pipe()
        start, self._start = os.pipe()
        self.descriptors = ready, start
        self.environment = peer_environment()
        self._library = build_shim(Path(__file__).with_name("start_line.c"))
        if self._library is not None:
            before = self.environment.get("LD_PRELOAD")
            self.environment = self.environment | {
                "LD_PRELOAD": f"{before}:{self._library}" if before else str(self._library),
                "BENCH_READY": str(ready),
                "BENCH_START": str(start),
            }

    def start(self, senders: int) -> None:
        """Let them go when so many are there, or when one has not come for a while: what it said is read."""
        while self._library and senders and select.select([self._at_line], [], [], self._PATIENCE_S)[0]:
            senders -= len(os.read(self._at_line, senders))
        for descriptor in (self._at_line, self._start, *self.descriptors):
            os.close(descriptor)
