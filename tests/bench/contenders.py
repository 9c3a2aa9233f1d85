"""Who receives: this node, Orthanc, storescp. Who sends: DCMTK's dcmsend, the same for all."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import Node, node_config
from peers.dcmtk import StoreScp, find_tool
from peers.loopback import peer_environment
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


def send(to: Contender, *groups: Sequence[Path]) -> float:
    """Send each group over an association of its own, all at once; return seconds until the last has ended.

    Raises AssertionError if an object was not taken.
    """
    tool = find_tool("dcmsend")
    assert tool is not None, "dcmsend is missing: run deploy/install-test-peers.sh"
    environment = os.environ | peer_environment()
    command = [str(tool), "--no-uid-checks", "-aec", to.ae_title, "127.0.0.1", str(to.port)]
    os.sync()  # what others have left to be written must not be charged to this one
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            [*command, *map(str, group)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for group in groups
    ]
    ends = [process.communicate()[1] for process in running]
    seconds = time.perf_counter() - started
    for process, said in zip(running, ends, strict=True):
        assert process.returncode == 0, f"{to.name}: dcmsend {process.returncode} {said.decode()[-500:]}"
    return seconds
