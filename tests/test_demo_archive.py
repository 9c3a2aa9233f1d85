"""The demo's archive: both kinds behave alike, as far as the demo asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    UltrasoundImageStorage,
    Verification,
)

from dicom_node.core.errors import DestinationUnreachable
from dicom_node.demo.archive import RunningArchive, start_archive
from dicom_node.demo.child import Child, ProgramNotStarted, free_ports
from dicom_node.demo.orthanc import find_orthanc
from peers.dcmtk import DcmtkFailed, dcmsend, echoscu, findscu, storescu
from peers.reactor import steady_reactor
from peers.still import breast_still, write

pytest_plugins = ["peers.fixtures"]

KINDS = [
    "built-in",
    pytest.param("Orthanc", marks=pytest.mark.peers),
]
_STEADY = [(evt.EVT_CONN_OPEN, steady_reactor)]
Start = Callable[[], RunningArchive]


@pytest.fixture(params=KINDS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Start an archive of one kind, always on the same folder."""
    if request.param == "Orthanc" and find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run deploy/install-test-peers.sh")
    running: list[RunningArchive] = []

    def begin() -> RunningArchive:
        running.append(start_archive(tmp_path / "archive", use_orthanc=request.param == "Orthanc"))
        assert running[-1].kind.startswith(request.param)
        return running[-1]

    yield begin
    for each in running:
        each.kill()


def test_archive_keeps_lists_and_returns_what_it_was_sent(start: Start, tmp_path: Path) -> None:
    archive = start()
    still = breast_still()
    result = breast_still(series="result", sop_class=SecondaryCaptureImageStorage, photometric="RGB")
    cine = breast_still(transfer_syntax=JPEGBaseline8Bit, photometric="RGB", frames=2, study="other")
    for ds in (still, result, cine):
        _store(archive, write(ds, tmp_path / "one.dcm"))
    both = {str(still.SOPInstanceUID), str(result.SOPInstanceUID)}
    assert archive.sop_instance_uids(str(still.StudyInstanceUID)) == both
    assert archive.sop_instance_uids() == both | {str(cine.SOPInstanceUID)}
    assert archive.count() == 3
    assert archive.sop_instance_uids("1.2.3") == set()
    kept = dcmread(BytesIO(archive.read(str(cine.SOPInstanceUID))))
    assert kept.PixelData == cine.PixelData
    assert kept.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    with pytest.raises(KeyError):
        archive.read("1.2.3")


def test_archive_never_changes_what_it_holds_and_survives_a_restart(start: Start, tmp_path: Path) -> None:
    archive = start()
    first, second = breast_still(patient_name=b"First"), breast_still(patient_name=b"Second")
    for ds in (first, second):
        _store(archive, write(ds, tmp_path / "one.dcm"))
    archive.stop()
    with pytest.raises(DestinationUnreachable):
        archive.count()
    archive = start()
    assert archive.count() == 1
    assert dcmread(BytesIO(archive.read(str(first.SOPInstanceUID)))).PatientName == "First"


def test_archive_rejects_callers_it_does_not_know(start: Start) -> None:
    archive = start()
    assert _echo(archive, "EMODE", archive.aet)
    assert not _echo(archive, "STRANGER", archive.aet)
    assert not _echo(archive, "EMODE", "OTHER")


def test_archive_answers_a_find_at_every_level(start: Start, tmp_path: Path) -> None:
    archive = start()
    stills = [breast_still(instance_number=number, rows=64, columns=64) for number in (1, 2, 3)]
    for ds in stills:
        _store(archive, write(ds, tmp_path / "one.dcm"))
    study, series = str(stills[0].StudyInstanceUID), str(stills[0].SeriesInstanceUID)
    assert len(_find(archive, "STUDY", StudyInstanceUID="", PatientName="")) == 1
    (found,) = _find(archive, "SERIES", StudyInstanceUID=study, SeriesInstanceUID="")
    assert found.SeriesInstanceUID == series
    wanted = [str(ds.SOPInstanceUID) for ds in stills[1:]]
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": wanted}
    images = _find(archive, "IMAGE", **keys, SOPClassUID="", InstanceNumber="")
    assert sorted(int(each.InstanceNumber) for each in images) == [2, 3]
    assert {str(each.SOPInstanceUID) for each in images} == set(wanted)
    assert {str(each.SOPClassUID) for each in images} == {UltrasoundImageStorage}


@pytest.mark.peers
def test_dcmtk_gets_on_with_the_built_in_archive(tmp_path: Path, dcmtk: None) -> None:
    still = breast_still(transfer_syntax=JPEG2000Lossless)
    path = write(still, tmp_path / "still.dcm")
    with start_archive(tmp_path / "archive", use_orthanc=False) as archive:
        echoscu(archive.host, archive.port, "SCANNER", archive.aet)
        assert storescu([path], archive.host, archive.port, "SCANNER", archive.aet).statuses == (0,)
        dcmsend([path], archive.host, archive.port, "SCANNER", archive.aet)
        keys = {"StudyInstanceUID": "", "SOPInstanceUID": "", "InstanceNumber": ""}
        (answer,) = findscu(archive.host, archive.port, "IMAGE", keys, "SCANNER", archive.aet)
        assert answer.SOPInstanceUID == still.SOPInstanceUID
        with pytest.raises(DcmtkFailed):
            echoscu(archive.host, archive.port, "STRANGER", archive.aet)


def test_built_in_archive_answers_nonsense_with_a_status(tmp_path: Path) -> None:
    with start_archive(tmp_path / "archive", use_orthanc=False) as archive:
        bad = breast_still(rows=64, columns=64)
        del bad.StudyInstanceUID
        assert _store_status(archive, bad) == 0xA900
        query = Dataset()
        query.QueryRetrieveLevel = "PATIENT"
        association = _associate(archive)
        (answer,) = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
        association.release()
        assert answer[0].Status == 0xA900
        assert archive.count() == 0


def test_built_in_archive_runs_by_hand_and_prints_its_port(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dicom_node.demo.archive", "--port", "0", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(b'{"port": ')
        process.terminate()
        assert process.wait(10) == 0


def test_broken_orthanc_gives_way_to_the_built_in_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "bin" / "Orthanc"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho cannot do it\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    with start_archive(tmp_path / "archive") as archive:
        assert archive.kind == "built-in"
        assert archive.count() == 0
    assert "Orthanc did not start" in caplog.text


def test_program_that_does_not_start_is_reported_with_what_it_printed(tmp_path: Path) -> None:
    child = Child(["/bin/sh", "-c", "echo no licence; exit 2"], tmp_path / "log")
    with pytest.raises(ProgramNotStarted, match="no licence"):
        child.wait_until(lambda: False)
    slow = Child(["/bin/sh", "-c", "exec sleep 60"], tmp_path / "slow.log")
    with pytest.raises(ProgramNotStarted, match="no sign"):
        slow.wait_until(lambda: False, timeout_s=0.2)
    assert not slow.is_running()


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def _associate(archive: RunningArchive, calling: str = "SCANNER", called: str | None = None) -> object:
    ae = AE(ae_title=calling)
    ae.add_requested_context(Verification)
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_requested_context(UltrasoundImageStorage)
    return ae.associate(archive.host, archive.port, ae_title=called or archive.aet, evt_handlers=_STEADY)


def _echo(archive: RunningArchive, calling: str, called: str) -> bool:
    association = _associate(archive, calling, called)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status.Status == 0)


def _store(archive: RunningArchive, path: Path) -> None:
    ds = dcmread(path)
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    association = ae.associate(archive.host, archive.port, ae_title=archive.aet, evt_handlers=_STEADY)
    assert association.is_established
    assert association.send_c_store(ds).Status == 0x0000
    association.release()


def _store_status(archive: RunningArchive, ds: Dataset) -> int:
    association = _associate(archive)
    status = association.send_c_store(ds)
    association.release()
    return int(status.Status)


def _find(archive: RunningArchive, level: str, **keys: object) -> list[Dataset]:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    association = _associate(archive)
    answers = list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
    association.release()
    assert answers[-1][0].Status == 0x0000
    return [identifier for status, identifier in answers if status.Status in (0xFF00, 0xFF01)]
