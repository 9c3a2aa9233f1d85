"""Resident memory of a process and of what it started, as the kernel counts it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def is_measurable() -> bool:
    """Does this system tell (Linux), so that a limit can be kept?"""
    return (_PROC / "self" / "statm").exists()


def family(pid: int) -> list[int]:
    """A process and all that it started, as far as they live."""
    found = [pid]
    for parent in found:  # grows while it is walked
        with suppress(OSError):
            for task in (_PROC / str(parent) / "task").iterdir():
                with suppress(OSError):
                    found += map(int, (task / "children").read_text().split())
    return found


def resident_mib(pids: list[int]) -> int:
    """MiB that these processes hold in memory; one that has ended holds none."""
    pages = 0
    for pid in pids:
        with suppress(OSError, IndexError):
            pages += int((_PROC / str(pid) / "statm").read_text().split()[1])
    return pages * _PAGE >> 20
