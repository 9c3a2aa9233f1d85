"""Measured tables inside documents, and the machine that they were measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def publish(text: str, document: Path, name: str) -> None:
    """Replace what is between the marks of a name in a document; raises ValueError if it has none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    published, places = pattern.subn(lambda _: f"{begin}\n{text}\n{end}", document.read_text(), count=1)
    if not places:
        raise ValueError(f"{document} has no place for the table: {begin} ... {end}")
    document.write_text(published)


def machine() -> str:
    """Cores, processor, memory and system of this machine."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{cores} cores ({_processor()}), {memory_gib:.0f} GiB, {system}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
