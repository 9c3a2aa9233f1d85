"""Between the processes of one node: who is alive, and who should wake up."""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dicom_node.core.errors import AlreadyRunning

_TURN_LOOK_S = 0.0005


@contextmanager
def sole_holder(lock: Path, role: str, patience_s: float = 1.0) -> Iterator[None]:
    """Be the only living process with this role on this data folder.

    A kernel lock, gone the moment its process is: no stale file can block a restart, and whoever
    holds it knows that leases of earlier holders are worthless.
    """
    fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _locked_within(fd, patience_s):
            raise AlreadyRunning(
                f"{role} on {lock.parent.parent}; stop it first (`emode serve` runs there already)"
            )
        yield
    finally:
        os.close(fd)


def _locked_within(fd: int, patience_s: float) -> bool:
    """Take the lock; somebody who only looks (`is_held`) may have it for a moment."""
    deadline = time.monotonic() + patience_s
    while True:
        if _try_lock(fd):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


class Turn:
    """One process at a time, each in its turn: for processes that write all the time.

    SQLite's own wait looks again after pauses of up to 100 ms, and whoever has just written is mostly first
    again. Here a waiting process is next (it holds the place behind the one at work, so that this one has
    to wait in its turn) and looks twice a millisecond. Kernel locks: whoever is killed has left.
    """

    def __init__(self, path: Path) -> None:
        """Processes with the same path take turns."""
        self._at_work, self._next = (
            os.open(path.with_suffix(suffix), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for suffix in (".turn", ".next")
        )

    @contextmanager
    def taken(self, patience_s: float) -> Iterator[None]:
        """Wait until it is our turn, and end it with the block.

        After `patience_s` the block runs all the same: a turn is a courtesy, and what is at stake has a lock
        of its own. One thread of a process at a time.
        """
        deadline = time.monotonic() + patience_s
        for lock in (self._next, self._at_work):
            while not _try_lock(lock) and time.monotonic() < deadline:
                time.sleep(_TURN_LOOK_S)
        fcntl.flock(self._next, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._at_work, fcntl.LOCK_UN)

    def close(self) -> None:
        """Take no more turns."""
        os.close(self._at_work)
        os.close(self._next)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Bell:
    """A named pipe that wakes the loop of one lane.

    Only a hint: whoever misses it finds the work at the next look into the table.
    """

    def __init__(self, path: Path) -> None:
        """Bell at `path`; the file is made when somebody waits."""
        self._path = path
        self._fd: int | None = None

    def ring(self) -> None:
        """Wake the waiting loop, if there is one."""
        with suppress(OSError):  # nobody waits, or the pipe is full of rings already
            fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(fd, b"!")
            finally:
                os.close(fd)

    def wait(self, timeout_s: float) -> None:
        """Sleep until somebody rings or the time is over."""
        if self._fd is None:
            with suppress(FileExistsError):
                os.mkfifo(self._path, 0o600)
            # Read and write: the pipe then never reports end-of-file when a ringer leaves.
            self._fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)
        if select.select([self._fd], [], [], timeout_s)[0]:
            with suppress(BlockingIOError):
                while os.read(self._fd, 4096):
                    pass

    def close(self) -> None:
        """Stop listening."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Bells:
    """The bells of one data folder, by lane."""

    def __init__(self, folder: Path) -> None:
        """Bells kept in `folder`."""
        self._folder = folder

    def bell(self, kind: str, lane: str) -> Bell:
        """The bell of one lane."""
        return Bell(self._folder / f"{kind}.{lane}")

    def ring(self, kind: str, lane: str) -> None:
        """Ring one lane's bell."""
        self.bell(kind, lane).ring()


def is_held(lock: Path) -> bool:
    """Is a living process the sole holder of this lock?"""
    if not lock.exists():
        return False
    fd = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
