"""How many associations there may be: in all, and of one peer, so that nobody takes everybody's.

The limits are the node's, whatever number of processes takes associations.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ENTRY = 8  # bytes; 0 is a free seat
_TURN_S = 1.0
_TURN_LOOK_S = 0.001


class SeatTable:
    """Who sits where, in memory that processes share if it was made before they were forked.

    Each process writes its own rows only. One that was killed leaves its rows behind: whoever has seen its
    end clears them.
    """

    def __init__(self, processes: int, seats: int) -> None:
        """All seats are free. seats is for all processes together, and any of them may have all."""
        self._seats = seats
        self._memory = memoryview(mmap.mmap(-1, processes * seats * _ENTRY)).cast("Q")

    def row(self, number: int) -> memoryview:
        """The seats of one process (from 1)."""
        return self._memory[(number - 1) * self._seats : number * self._seats]

    def clear(self, number: int) -> None:
        """A process has ended, and with it all its associations."""
        row = self.row(number)
        for seat in range(len(row)):
            row[seat] = 0

    def taken(self) -> list[int]:
        """What is written on every seat that is taken, in all processes."""
        return [entry for entry in self._memory.tolist() if entry]


class Seats:
    """The seats that one process gives to admitted associations. Safe to use from any thread."""

    def __init__(self, total: int, per_peer: int, table: SeatTable, number: int, turn: Path) -> None:
        """Give seats of the table in the rows of process `number`.

        total, per_peer  hold for all processes together.
        turn             a file that processes lock while they look for a seat.
        """
        self._total = total
        self._per_peer = per_peer
        self._table = table
        self._row = table.row(number)
        self._taken: dict[object, int] = {}
        self._lock = threading.Lock()
        self._turn = os.open(turn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, guest: object, peer: tuple[str, str]) -> str | None:
        """Give `guest` a seat of `peer`; or say in words, for the log, why there is none."""
        name = _entry(peer)
        with self._lock, self._our_turn():
            taken = self._table.taken()
            if len(taken) >= self._total:
                return "too many associations at once"
            if taken.count(name) >= self._per_peer:
                return "too many associations of this peer at once"
            seat = next(seat for seat, entry in enumerate(self._row) if not entry)
            self._row[seat] = name
            self._taken[guest] = seat
            return None

    def leave(self, guest: object) -> None:
        """Free the guest's seat, if it has one."""
        with self._lock:
            seat = self._taken.pop(guest, None)
            if seat is not None:
                self._row[seat] = 0

    @contextmanager
    def _our_turn(self) -> Iterator[None]:
        """No other process looks for a seat meanwhile; the kernel ends the turn of one that is killed.

        One that was stopped in the middle, by a debugger for example, must not keep everybody out: after a
        second we look all the same, and the limits may then be passed by one.
        """
        deadline = time.monotonic() + _TURN_S
        ours = False
        while not ours and time.monotonic() < deadline:
            try:
                fcntl.lockf(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = True
            except BlockingIOError:
                time.sleep(_TURN_LOOK_S)
        try:
            yield
        finally:
            if ours:
                fcntl.lockf(self._turn, fcntl.LOCK_UN)


def _entry(peer: tuple[str, str]) -> int:
    """A peer (AE title, address) as a number, never 0; that two share one is not to be expected."""
    digest = hashlib.blake2b("\0".join(peer).encode(), digest_size=_ENTRY).digest()
    return int.from_bytes(digest, "big") or 1
