"""The measured table, as text and inside `docs/benchmarks.md`."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pynetdicom
import torch

from bench.figures import HEAD, Figure
from dicom_node.demo.orthanc import find_orthanc
from peers.dcmtk import find_tool

_BEGIN, _END = "<!-- bench:begin -->", "<!-- bench:end -->"


def text_of(parts: dict[str, Sequence[Figure]], rounds: int) -> str:
    """The whole report in Markdown."""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}; `make bench ROUNDS={rounds}`; medians, in brackets half the range "
        "between the quartiles. Ratios are taken round by round.",
        "",
        f"{_machine()}. {_versions()}.",
    ]
    for name, figures in parts.items():
        lines += ["", f"### {name.capitalize()}", "", HEAD, *(figure.row() for figure in figures)]
    return "\n".join(lines)


def publish(text: str, document: Path) -> None:
    """Put the report between its marks in a document; raises ValueError if it has none."""
    before = document.read_text()
    found = re.subn(
        f"{_BEGIN}.*?{_END}", lambda _: f"{_BEGIN}\n{text}\n{_END}", before, count=1, flags=re.DOTALL
    )
    if not found[1]:
        raise ValueError(f"{document} has no place for the table: {_BEGIN} ... {_END}")
    document.write_text(found[0])


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"model name\s*: (.*)", cpuinfo.read_text())
        model = named[1] if named else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} cores ({model}), {memory} GiB, {platform.system()} {platform.release()}"


def _versions() -> str:
    orthanc = find_orthanc()
    tool = find_tool("dcmsend")
    theirs = [_first_line(str(program), "--version") for program in (orthanc, tool) if program is not None]
    ours = f"Python {platform.python_version()}, pydicom {pydicom.__version__}"
    return "; ".join([ours + f", pynetdicom {pynetdicom.__version__}, torch {torch.__version__}", *theirs])


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip().splitlines()
    return said[0].strip("$ ") if said else command[0]
