"""What the processes that take associations share: the sockets they accept from, and the seats they give.

The sockets are opened once and inherited, so a port that was chosen by the system is the same for all, one
process can end while the others go on, and whoever has least to do accepts first.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Mapping
from errno import EADDRINUSE

from dicom_node.core.errors import ListenFailed
from dicom_node.network.seats import SeatTable

_BACKLOG = 128


class Crowd:
    """How many connections each process has, in memory that they share: who has fewer accepts first."""

    def __init__(self, processes: int) -> None:
        """Nobody has any."""
        self._counts = memoryview(mmap.mmap(-1, processes * 8)).cast("Q")

    def note(self, number: int, count: int) -> None:
        """A process (from 1) has so many."""
        self._counts[number - 1] = count

    def is_larger(self, number: int) -> bool:
        """Has this process more than another one?"""
        return self._counts[number - 1] > min(self._counts.tolist())


class Entrance:
    """One for a node, made before its processes."""

    def __init__(self, host: str, ports: Mapping[str, int], *, processes: int, seats: int) -> None:
        """Prepare; nothing listens before `open`.

        ports      by the name under which each is reported; 0 takes a free one, and keeps it.
        processes  that accept from here.
        seats      associations at once, over all of them.
        """
        self._host = host
        self._wanted = dict(ports)
        self.sockets: dict[str, socket.socket] = {}
        """Those that listen, by name."""
        self.seats = SeatTable(processes, seats)
        self.crowd = Crowd(processes)
        self.processes = processes

    @property
    def ports(self) -> dict[str, int]:
        """The ports that it listens on, by name."""
        return {name: int(bound.getsockname()[1]) for name, bound in self.sockets.items()}

    def open(self) -> None:
        """Listen, if it does not yet. Raises ListenFailed."""
        if self.sockets:
            return
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            for name, port in self._wanted.items():
                bound = socket.create_server((self._host, port), family=family, backlog=_BACKLOG)
                bound.setblocking(False)
                self.sockets[name] = bound
        except OSError as error:
            self.close()
            tried = " or ".join(str(port) for port in self._wanted.values())
            why = os.strerror(error.errno) if error.errno else str(error.strerror)
            taken = error.errno == EADDRINUSE
            cure = f"; another program has it: ss -ltnp 'sport = :{tried}'" if taken else ""
            raise ListenFailed(f"{self._host}:{tried}: {why}{cure}") from error
        self._wanted = self.ports

    def left(self, number: int) -> None:
        """A process has ended: nobody sits any more where it had associations."""
        self.seats.clear(number)
        self.crowd.note(number, 0)

    def close(self) -> None:
        """Listen no more in this process; callers are turned away once no process does."""
        for bound in self.sockets.values():
            bound.close()
        self.sockets.clear()
