"""The measured table as Markdown."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime

import pydicom
import pynetdicom
import torch

from bench.figures import HEAD, Figure
from bench.gpu import NOT_MEASURED
from dicom_node.demo.orthanc import find_orthanc
from peers.dcmtk import find_tool
from published import machine


def text_of(parts: dict[str, Sequence[Figure]], rounds: int) -> str:
    """The whole report in Markdown."""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}; `make bench ROUNDS={rounds}`; medians, in brackets half the range "
        "between the quartiles. Ratios are taken round by round.",
        "",
        f"{machine()}. {_versions()}.",
    ]
    for name, figures in parts.items():
        rows = [HEAD, *(figure.row() for figure in figures)] if figures else [NOT_MEASURED]
        lines += ["", f"### {name.capitalize()}", "", *rows]
    return "\n".join(lines)


def _versions() -> str:
    orthanc = find_orthanc()
    tool = find_tool("dcmsend")
    theirs = [_first_line(str(program), "--version") for program in (orthanc, tool) if program is not None]
    ours = f"pydicom {pydicom.__version__}"
    return "; ".join([ours + f", pynetdicom {pynetdicom.__version__}, torch {torch.__version__}", *theirs])


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip().splitlines()
    return said[0].strip("$ ") if said else command[0]
