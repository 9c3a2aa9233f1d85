"""The test peers against each other, without the node: a red node test is then never their fault."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from peers.busi import busi_images, wrap_png
from peers.dcmtk import DcmtkFailed, StoreScp, dcmdump, dcmsend, echoscu, findscu, storescu
from peers.loopback import peer_environment
from peers.orthanc import Orthanc, Routing
from peers.still import breast_still, region, speckle, write

pytest_plugins = ["peers.fixtures"]

LOSSLESS = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
)
LOSSY = (JPEGBaseline8Bit, JPEGLSNearLossless, JPEG2000)
NAMES = {
    "ISO 2022 IR 58": (["", "ISO 2022 IR 58"], b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"),
    "GB18030": ("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"),
    "ISO_IR 192": ("ISO_IR 192", "Müller^Jürgen=王^小東".encode()),
    "ISO 2022 IR 87": (["", "ISO 2022 IR 87"], b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
    "bytes that lie": ("ISO_IR 100", b"\xcd\xf5^\xd0\xa1\xb6\xab"),
}


# -- the images ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax", [*LOSSLESS, *LOSSY], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL"])
@pytest.mark.parametrize("frames", [1, 3])
def test_still_reads_back_as_its_pixels(
    tmp_path: Path, transfer_syntax: str, photometric: str, frames: int
) -> None:
    path = write(
        breast_still(
            transfer_syntax=transfer_syntax, photometric=photometric, frames=frames, rows=64, columns=96
        ),
        tmp_path / "still.dcm",
    )
    ds = dcmread(path)
    shown = ds.pixel_array.reshape(frames, 64, 96, -1)[..., 0].astype(int)
    if photometric == "MONOCHROME1":
        shown = 255 - shown
    wanted = np.stack([speckle(64, 96, seed) for seed in range(frames)])
    error = np.abs(shown - wanted)
    assert ds.file_meta.TransferSyntaxUID == transfer_syntax
    assert error.max() == 0 if transfer_syntax in LOSSLESS else error.mean() < 12
    assert (ds.LossyImageCompression == "01") == (transfer_syntax in LOSSY)


def test_palette_and_subsampled_still_read_back(tmp_path: Path) -> None:
    palette = dcmread(write(breast_still(photometric="PALETTE COLOR"), tmp_path / "palette.dcm"))
    assert np.array_equal(palette.pixel_array, speckle(240, 320))
    subsampled = dcmread(write(breast_still(photometric="YBR_FULL_422"), tmp_path / "422.dcm"))
    assert np.array_equal(subsampled.pixel_array[..., 1], speckle(240, 320))


@pytest.mark.parametrize("charset", NAMES)
@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless])
def test_patient_name_is_written_byte_for_byte(tmp_path: Path, charset: str, transfer_syntax: str) -> None:
    character_set, name = NAMES[charset]
    ds = breast_still(character_set=character_set, patient_name=name, transfer_syntax=transfer_syntax)
    padded = name + b" " * (len(name) % 2)
    assert padded in write(ds, tmp_path / "still.dcm").read_bytes()
    assert dcmread(tmp_path / "still.dcm").get_item("PatientName").value == padded


def test_same_arguments_give_the_same_file(tmp_path: Path) -> None:
    one, two = (write(breast_still(seed=3), tmp_path / name) for name in ("one.dcm", "two.dcm"))
    other = breast_still(seed=4)
    assert one.read_bytes() == two.read_bytes()
    assert other.SOPInstanceUID != dcmread(one).SOPInstanceUID


def test_attributes_and_regions_are_set_or_left_out() -> None:
    ds = breast_still(regions=[region((10, 20, 110, 220))], Modality="MR", Laterality=None)
    (item,) = ds.SequenceOfUltrasoundRegions
    assert (item.RegionLocationMaxX1, item.RegionLocationMaxY1) == (109, 219)
    assert ds.Modality == "MR"
    assert "Laterality" not in ds


@pytest.mark.real_data
def test_busi_still_is_wrapped_pixel_for_pixel(tmp_path: Path) -> None:
    folder = Path(os.environ.get("EMODE_REAL_DATA", Path(__file__).parents[2] / "shared/data")) / "busi"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set EMODE_REAL_DATA")
    for png in busi_images(folder, "malignant")[:3]:
        ds = dcmread(write(wrap_png(png, spacing_mm=0.08), tmp_path / f"{png.stem}.dcm"))
        assert ds.pixel_array.shape == (ds.Rows, ds.Columns, 3)
        assert (ds.Modality, ds.BodyPartExamined) == ("US", "BREAST")
        assert ds.SequenceOfUltrasoundRegions[0].RegionLocationMaxX1 == ds.Columns - 1


# -- DCMTK alone --------------------------------------------------------------------------------


@pytest.mark.peers
def test_storescu_delivers_every_transfer_syntax_unchanged(
    tmp_path: Path, storescp: Callable[..., StoreScp]
) -> None:
    scp = storescp("KEEPER")
    sent = {
        syntax: write(
            breast_still(
                transfer_syntax=syntax, photometric="RGB", instance_number=number, rows=64, columns=64
            ),
            tmp_path / f"{number}.dcm",
        )
        for number, syntax in enumerate((*LOSSLESS, *LOSSY), start=1)
    }
    report = storescu(sent.values(), scp.host, scp.port, "SENDER", "KEEPER")
    assert report.statuses == (0,) * len(sent)
    got = {ds.file_meta.TransferSyntaxUID: ds for ds in scp.wait_for(len(sent))}
    assert set(got) == set(sent)
    for syntax, path in sent.items():
        assert got[syntax].PixelData == dcmread(path).PixelData, syntax


@pytest.mark.peers
@pytest.mark.parametrize(
    ("option", "sign"),
    [
        ("--refuse", "Association Rejected"),
        ("--abort-after", "Peer aborted"),
        ("--abort-during", "Peer aborted"),
    ],
)
def test_misbehaving_storescp_is_reported_with_what_was_printed(
    tmp_path: Path, storescp: Callable[..., StoreScp], option: str, sign: str
) -> None:
    scp = storescp(options=(option,))
    path = write(breast_still(rows=64, columns=64), tmp_path / "still.dcm")
    with pytest.raises(DcmtkFailed, match=sign):
        storescu([path], scp.host, scp.port)


@pytest.mark.peers
def test_storescp_can_mend_its_ways_on_the_same_port(
    tmp_path: Path, storescp: Callable[..., StoreScp]
) -> None:
    scp = storescp(options=("--refuse",))
    port = scp.port
    path = write(breast_still(rows=64, columns=64), tmp_path / "still.dcm")
    assert storescu([path], scp.host, scp.port, check=False).statuses == ()
    scp.restart(options=())
    assert scp.port == port
    assert storescu([path], scp.host, scp.port).statuses == (0,)
    assert scp.wait_for(1)[0].SOPInstanceUID == dcmread(path).SOPInstanceUID


@pytest.mark.peers
def test_dcmdump_reads_what_we_write(tmp_path: Path, dcmtk: None) -> None:
    path = write(breast_still(transfer_syntax=RLELossless, frames=2), tmp_path / "cine.dcm")
    assert "RLELossless" in dcmdump(path)
    assert "UltrasoundMultiframeImageStorage" in dcmdump(path, "+P", "SOPClassUID")
    with pytest.raises(DcmtkFailed):
        dcmdump(tmp_path / "nothing.dcm")


# -- DCMTK and Orthanc --------------------------------------------------------------------------


@pytest.mark.peers
def test_orthanc_stores_lists_and_keeps_the_bytes(
    tmp_path: Path, dcmtk: None, orthanc: Callable[..., Orthanc]
) -> None:
    pacs = orthanc(aet="PACS")
    character_set, name = NAMES["ISO 2022 IR 58"]
    still = breast_still(character_set=character_set, patient_name=name)
    cine = breast_still(transfer_syntax=JPEGBaseline8Bit, photometric="RGB", frames=3, instance_number=2)
    files = [write(still, tmp_path / "still.dcm"), write(cine, tmp_path / "cine.dcm")]
    echoscu(pacs.host, pacs.port, aec="PACS")
    dcmsend(files, pacs.host, pacs.port, "SENDER", "PACS")

    uids = sorted(str(ds.SOPInstanceUID) for ds in (still, cine))
    study = str(still.StudyInstanceUID)
    assert pacs.sop_instance_uids() == pacs.sop_instance_uids(study) == uids
    assert pacs.sop_instance_uids("1.2.3") == []
    assert len(pacs.studies()) == len(pacs.series(study)) == 1
    assert pacs.find("Study", PatientID="TEST-0001")[0]["MainDicomTags"]["StudyInstanceUID"] == study
    kept = dcmread(BytesIO(pacs.file_of(str(still.SOPInstanceUID))))
    assert kept.get_item("PatientName").value.rstrip() == name.rstrip()
    assert {pacs.tags(each)["Modality"] for each in pacs.instances()} == {"US"}

    answers = findscu(
        pacs.host, pacs.port, "IMAGE", {"StudyInstanceUID": study, "SOPInstanceUID": ""}, aec="PACS"
    )
    assert sorted(str(answer.SOPInstanceUID) for answer in answers) == uids


@pytest.mark.peers
def test_orthanc_survives_stop_and_kill_on_the_same_ports(
    tmp_path: Path, orthanc: Callable[..., Orthanc]
) -> None:
    pacs = orthanc()
    port = pacs.port
    pacs.upload(write(breast_still(), tmp_path / "still.dcm"))
    first = pacs.sop_instance_uids()
    pacs.kill()
    pacs.start()
    assert pacs.port == port
    assert pacs.sop_instance_uids() == first
    pacs.restart()
    assert pacs.sop_instance_uids() == first


@pytest.mark.peers
def test_closed_orthanc_rejects_strangers_and_wrong_names(
    dcmtk: None, orthanc: Callable[..., Orthanc]
) -> None:
    pacs = orthanc(
        aet="PACS", closed=True, check_called_aet=True, modalities={"known": ("KNOWN", "127.0.0.1", 104)}
    )
    echoscu(pacs.host, pacs.port, "KNOWN", "PACS")
    with pytest.raises(DcmtkFailed):
        echoscu(pacs.host, pacs.port, "KNOWN", "OTHER")
    with pytest.raises(DcmtkFailed):
        echoscu(pacs.host, pacs.port, "STRANGER", "PACS")


@pytest.mark.peers
@pytest.mark.parametrize(("overwrite", "kept"), [(False, "FIRST"), (True, "SECOND")])
def test_orthanc_overwrites_only_when_told(
    tmp_path: Path, orthanc: Callable[..., Orthanc], overwrite: bool, kept: str
) -> None:
    pacs = orthanc(overwrite=overwrite)
    for name in (b"FIRST", b"SECOND"):
        instance = pacs.upload(write(breast_still(patient_name=name), tmp_path / "still.dcm"))
    assert pacs.tags(instance)["PatientName"] == kept


@pytest.mark.peers
def test_orthanc_sends_what_it_is_asked_to(
    tmp_path: Path, storescp: Callable[..., StoreScp], orthanc: Callable[..., Orthanc]
) -> None:
    scp = storescp("KEEPER")
    pacs = orthanc(modalities={"keeper": ("KEEPER", scp.host, scp.port)})
    pacs.echo("keeper")
    instance = pacs.upload(write(breast_still(), tmp_path / "still.dcm"))
    assert pacs.route("keeper", instance)["FailedInstancesCount"] == 0
    assert len(scp.wait_for(1)) == 1


@pytest.mark.peers
def test_orthanc_forwards_each_instance_but_not_what_came_from_the_node(
    tmp_path: Path, storescp: Callable[..., StoreScp], orthanc: Callable[..., Orthanc]
) -> None:
    node = storescp("NODE")
    pacs = _routing_pacs(orthanc, node, Routing.PER_INSTANCE)
    own, foreign = _still_and_own_result(tmp_path)
    storescu([own], pacs.host, pacs.port, "NODE", "PACS")
    storescu([foreign], pacs.host, pacs.port, "SCANNER", "PACS")
    assert [ds.SOPInstanceUID for ds in node.wait_for(1)] == [dcmread(foreign).SOPInstanceUID]


@pytest.mark.peers
def test_orthanc_forwards_a_stable_study_once(
    tmp_path: Path, storescp: Callable[..., StoreScp], orthanc: Callable[..., Orthanc]
) -> None:
    node = storescp("NODE")
    pacs = _routing_pacs(orthanc, node, Routing.STABLE_STUDY)
    own, foreign = _still_and_own_result(tmp_path)
    storescu([foreign], pacs.host, pacs.port, "SCANNER", "PACS")
    node.wait_for(1)
    storescu([own], pacs.host, pacs.port, "NODE", "PACS")
    pacs.wait_for(lambda each: all(study["IsStable"] for study in each.get("/studies?expand")))
    time.sleep(0.5)
    assert _stores(node) == 1


@pytest.mark.peers
def test_naive_rule_sends_the_node_its_own_results_and_duplicates(
    tmp_path: Path, storescp: Callable[..., StoreScp], orthanc: Callable[..., Orthanc]
) -> None:
    node = storescp("NODE")
    pacs = _routing_pacs(orthanc, node, Routing.STABLE_STUDY_NAIVE)
    own, foreign = _still_and_own_result(tmp_path)
    storescu([foreign], pacs.host, pacs.port, "SCANNER", "PACS")
    node.wait_for(1)
    storescu([own], pacs.host, pacs.port, "NODE", "PACS")
    node.wait_for(2)
    assert _stores(node) == 3


@pytest.mark.peers
@pytest.mark.skipif("LD_PRELOAD" not in peer_environment(), reason="no C compiler for the loopback shim")
def test_peers_listen_on_loopback_only(
    storescp: Callable[..., StoreScp], orthanc: Callable[..., Orthanc]
) -> None:
    pacs, scp = orthanc(), storescp()
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {}
    for line in listening:
        _, local, _, state, *_ = line.split()
        host, port = local.split(":")
        if state == "0A":
            addresses[int(port, 16)] = host
    assert {addresses[port] for port in (pacs.port, pacs.http_port, scp.port)} == {"0100007F"}


def test_peer_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from dicom_node.demo.child import Child\n"
        "child = Child(['/bin/sh', '-c', 'exec sleep 60'], Path(sys.argv[1]))\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        peer = int(starter.stdout.readline())
        assert _is_alive(peer)
        starter.send_signal(signal.SIGKILL)
    for _ in itertools.takewhile(lambda _: _is_alive(peer), range(100)):
        time.sleep(0.05)
    assert not _is_alive(peer)


def _routing_pacs(orthanc: Callable[..., Orthanc], node: StoreScp, rule: Routing) -> Orthanc:
    modalities = {"node": (node.aet, node.host, node.port)}
    return orthanc(aet="PACS", modalities=modalities, routing=rule, route_to="node", stable_age_s=1)


def _still_and_own_result(folder: Path) -> tuple[Path, Path]:
    """What the node might send, and what a scanner sends, in one study."""
    own = breast_still(series="result", instance_number=1, rows=64, columns=64)
    foreign = breast_still(instance_number=2, rows=64, columns=64)
    return write(own, folder / "own.dcm"), write(foreign, folder / "foreign.dcm")


def _stores(scp: StoreScp) -> int:
    """How many C-STORE requests it got, the same instance twice counted twice."""
    return scp.log().count("Received Store Request")


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    # Ended, and waiting for whoever adopts orphans here.
    return state != "Z"
