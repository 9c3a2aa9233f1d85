"""Fixtures for all tests, and an honest word on what did not run."""

import os

# Before numpy is imported: see dicom_node.cli.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.demo.child import free_ports

pytest_plugins = ["peers.fixtures"]

REAL_DATA = Path(os.environ.get("EMODE_REAL_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files; tests that ask for it are marked real_data."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}; set EMODE_REAL_DATA")
    return REAL_DATA


@pytest.fixture
def free_port() -> int:
    """A port of this machine that was free a moment ago."""
    return free_ports(1)[0]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: the same sums in the same order, and no fight for cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests with real data and with real peers ran."""
    reports = {
        outcome: terminalreporter.stats.get(outcome, [])
        for outcome in ("passed", "failed", "error", "skipped")
    }
    for marker, what in (("real_data", "real ultrasound data"), ("peers", "Orthanc and DCMTK")):
        counts = {
            outcome: sum(marker in getattr(report, "keywords", ()) for report in found)
            for outcome, found in reports.items()
        }
        ran = counts["passed"] + counts["failed"] + counts["error"]
        terminalreporter.write_line(f"with {what}: {ran} ran, {counts['skipped']} skipped")
