"""Resident memory of a process and of what it started, as the kernel counts it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOOKS_BETWEEN_WALKS = 5


def is_measurable() -> bool:
    """Does this system tell (Linux), so that a limit can be kept?"""
    return (_PROC / "self" / "statm").exists()


def newest_process() -> str | None:
    """Number of the process or thread that was started last on this system; None if it does not tell."""
    with suppress(OSError, IndexError):
        return _read("/proc/loadavg").split()[-1]
    return None


class Family:
    """A process and all that it started, as far as they live.

    Looked at several times a second for as long as a node runs, so a look has to be cheap: who belongs to
    it is asked again only once something was started somewhere, and now and then for systems that do not
    tell that rightly.
    """

    def __init__(self, pid: int) -> None:
        """Of this process."""
        self.pid = pid
        self._members = [pid]
        self._walked_at: str | None = None
        self._looks = 0

    def resident_mib(self, newest: str | None) -> int:
        """MiB that they hold in memory; one that has ended holds none. newest is of `newest_process`."""
        self._looks += 1
        if newest is None or newest != self._walked_at or self._looks >= _LOOKS_BETWEEN_WALKS:
            self._members, self._walked_at, self._looks = _walk(self.pid), newest, 0
        pages = 0
        for pid in self._members:
            with suppress(OSError, IndexError):
                pages += int(_read(f"/proc/{pid}/statm").split()[1])
        return pages * _PAGE >> 20

    def kill(self) -> None:
        """kill -9 to all of them."""
        for pid in _walk(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _walk(pid: int) -> list[int]:
    found = [pid]
    for parent in found:  # grows while it is walked
        with suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208 - many times a second
                with suppress(OSError):
                    found += map(int, _read(f"/proc/{parent}/task/{task}/children").split())
    return found


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)
