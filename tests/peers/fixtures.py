"""pytest fixtures that start real peers and end them, whatever the test did.

Use: `pytest_plugins = ["peers.fixtures"]` in conftest.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dicom_node.demo.orthanc import find_orthanc
from peers.dcmtk import StoreScp, find_tool
from peers.orthanc import DICOM_WEB, Orthanc

_HOW = "run deploy/install-test-peers.sh"

DCMTK_TOOLS = ("storescu", "storescp", "dcmsend", "echoscu", "findscu", "dcmdump")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """Start an Orthanc: `orthanc(aet="PACS", ...)`, options as of `peers.orthanc.Orthanc`."""
    if find_orthanc() is None:
        pytest.skip(f"Orthanc is not installed: {_HOW}")
    with ExitStack() as running:
        count = 0

        def start(folder: Path | None = None, **options: object) -> Orthanc:
            nonlocal count
            count += 1
            peer = Orthanc(folder or tmp_path / f"orthanc-{count}", **options)  # type: ignore[arg-type]
            # Killed, not stopped: an orderly end takes Orthanc 3 s, and nobody needs its folder again.
            running.callback(peer.kill)
            return peer.start()

        yield start


@pytest.fixture
def storescp(tmp_path: Path, dcmtk: None) -> Iterator[Callable[..., StoreScp]]:
    """Start a storescp: `storescp("AET", options=("--abort-after",))`."""
    with ExitStack() as running:
        count = 0

        def start(
            aet: str = "STORESCP", options: tuple[str, ...] = (), folder: Path | None = None
        ) -> StoreScp:
            nonlocal count
            count += 1
            peer = StoreScp(folder or tmp_path / f"storescp-{count}", aet, options)
            running.callback(peer.stop)
            return peer.start()

        yield start


@pytest.fixture
def dcmtk() -> None:
    """Skip where DCMTK's programs are missing."""
    missing = [name for name in DCMTK_TOOLS if find_tool(name) is None]
    if missing:
        pytest.skip(f"DCMTK is not installed ({', '.join(missing)}): {_HOW}")


@pytest.fixture
def dicom_web() -> None:
    """Skip where Orthanc cannot answer DICOMweb."""
    if not DICOM_WEB.exists():
        pytest.skip(f"orthanc-dicomweb is not installed: {_HOW}")
