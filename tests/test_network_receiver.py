"""The receiver, by itself in its own process, against DCMTK and against rude senders."""

import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.core.image import Arrival
from dicom_node.dicom.part10 import dataset_offset
from dicom_node.dicom.services import ULTRASOUND_CLASSES
from dicom_node.network import scp
from harness import Receiver, node_config, raw_store
from peers.still import breast_still, write

US = "1.2.840.10008.5.1.4.1.1.6.1"
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEG2000,
)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("receiver")
    running = Receiver(folder, node_config(folder, {"archive": ("PACS", 4242)}))
    yield running
    running.stop()


def encoded(path: Path) -> bytes:
    """The data set of a Part 10 file, as bytes."""
    return path.read_bytes()[dataset_offset(path) :]


def kept(receiver: Receiver) -> list[Path]:
    return list((receiver.node.folder / "data" / "source").glob("??/*.dcm"))


def images_of(receiver: Receiver, sop_instance_uid: str):
    return [line for line in receiver.node.images() if line["sop_instance_uid"] == sop_instance_uid]


@pytest.mark.peers
def test_c_echo(receiver, dcmtk):
    from peers.dcmtk import echoscu

    echoscu("127.0.0.1", receiver.port, aec="EMODE")


@pytest.mark.peers
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_every_transfer_syntax_is_kept_bit_for_bit(receiver, dcmtk, tmp_path, syntax):
    ds = breast_still(transfer_syntax=str(syntax))
    path = write(ds, tmp_path / "image.dcm")
    raw = encoded(path)
    assert raw_store(receiver.port, US, ds.SOPInstanceUID, raw, syntax=str(syntax)) == 0x0000
    (line,) = images_of(receiver, ds.SOPInstanceUID)
    assert line["stage"] == "waiting"
    stored = [file for file in kept(receiver) if encoded(file) == raw]
    assert len(stored) == 1
    assert pydicom.dcmread(stored[0]).file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize("sop_class", sorted(ULTRASOUND_CLASSES))
def test_every_ultrasound_class_is_taken_the_retired_ones_too(receiver, tmp_path, sop_class):
    ds = breast_still(seed=50, sop_class=sop_class)
    ds.SOPInstanceUID = pydicom.uid.generate_uid()
    raw = encoded(write(ds, tmp_path / "image.dcm"))
    assert raw_store(receiver.port, sop_class, ds.SOPInstanceUID, raw) == 0x0000


@pytest.mark.peers
def test_dcmtk_sends_a_whole_study(receiver, dcmtk, tmp_path):
    from peers.dcmtk import storescu

    files = [write(breast_still(seed=100 + n), tmp_path / f"{n}.dcm") for n in range(5)]
    assert set(storescu(files, "127.0.0.1", receiver.port, aec="EMODE").statuses) == {0}
    for file in files:
        assert images_of(receiver, pydicom.dcmread(file).SOPInstanceUID)


def test_the_same_image_again_is_one_image_and_one_job(receiver, tmp_path):
    ds = breast_still(seed=7)
    raw = encoded(write(ds, tmp_path / "image.dcm"))
    for _ in range(3):
        assert raw_store(receiver.port, US, ds.SOPInstanceUID, raw) == 0x0000
    (line,) = images_of(receiver, ds.SOPInstanceUID)
    assert line["arrivals"] == 3
    jobs = receiver.node.facts("jobs", "list", "--limit", "1000")
    assert sum(job["sop_instance_uid"] == ds.SOPInstanceUID for job in jobs) == 1


@pytest.mark.filterwarnings("ignore:.*VR UI")  # the rude sender is in this process
@pytest.mark.parametrize("uid", ["../escaped", "1.2.3/../../x", "1" * 80, "not a uid"])
def test_a_hostile_uid_is_answered_and_escapes_nothing(receiver, tmp_path, uid):
    before = {path for path in Path(receiver.node.folder).rglob("*") if path.suffix != ".log"}
    ds = breast_still(seed=8)
    raw = encoded(write(ds, tmp_path / "image.dcm"))
    status = raw_store(receiver.port, US, uid, raw)
    assert status in (None, 0xA900)  # an answer, or the association ended: never success
    after = {path for path in Path(receiver.node.folder).rglob("*") if path.suffix != ".log"}
    assert {path for path in after - before if "incoming" not in path.parts} == set()
    assert not (receiver.node.folder / "escaped").exists()
    still_works(receiver, tmp_path)


def test_a_data_set_that_contradicts_the_command_is_refused(receiver, tmp_path):
    ds = breast_still(seed=9)
    raw = encoded(write(ds, tmp_path / "image.dcm"))
    assert raw_store(receiver.port, US, "1.2.3.4.5", raw) == 0xA900
    assert images_of(receiver, "1.2.3.4.5") == []
    still_works(receiver, tmp_path)


def test_noise_is_refused(receiver, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    assert raw_store(receiver.port, US, "1.2.3.4.6", noise) in (0xC000, 0xA900)
    still_works(receiver, tmp_path)


def test_a_truncated_data_set_is_kept_or_refused_but_hurts_nobody(receiver, tmp_path):
    ds = breast_still(seed=10)
    raw = encoded(write(ds, tmp_path / "image.dcm"))
    assert raw_store(receiver.port, US, ds.SOPInstanceUID, raw[: len(raw) // 2]) in (0x0000, 0xC000)
    still_works(receiver, tmp_path)


def test_what_no_route_takes_is_success_with_a_reason(tmp_path):
    route = {"name": "breast", "destinations": ["archive"], "match": {"body_part": ["BREAST"]}}
    running = Receiver(tmp_path, node_config(tmp_path, {"archive": ("PACS", 4242)}, routes=[route]))
    try:
        ds = breast_still(seed=11)
        ds.BodyPartExamined = "THYROID"
        raw = encoded(write(ds, tmp_path / "image.dcm"))
        assert raw_store(running.port, US, ds.SOPInstanceUID, raw) == 0x0000
        (line,) = images_of(running, ds.SOPInstanceUID)
    finally:
        running.stop()
    assert (line["stage"], line["skip_code"]) == ("skipped", "not-this-route")
    assert 'Route "breast": body part is THYROID, wanted BREAST' in line["skip_sentence"]


@pytest.mark.peers
def test_only_listed_peers_get_in_and_the_reason_is_the_standards(dcmtk, tmp_path):
    from peers.dcmtk import DcmtkFailed, echoscu

    peers = [
        {"ae_title": "GOOD", "addresses": ["127.0.0.1"]},
        {"ae_title": "ELSEWHERE", "addresses": ["10.0.0.0/8"]},
    ]
    config = node_config(tmp_path, {"archive": ("PACS", 4242)}, peers=peers, accept_unknown_peers=False)
    running = Receiver(tmp_path, config)
    try:
        echoscu("127.0.0.1", running.port, aet="GOOD", aec="EMODE")
        for aet, aec, reason in (
            ("GOOD", "WRONG", "Called AE Title Not Recognized"),
            ("BAD", "EMODE", "Calling AE Title Not Recognized"),
            ("ELSEWHERE", "EMODE", "Calling AE Title Not Recognized"),
        ):
            with pytest.raises(DcmtkFailed, match=reason):
                echoscu("127.0.0.1", running.port, aet=aet, aec=aec)
        assert running.log.count("association-rejected") == 3
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("limits", "status"), [({"min_free_mib": 1 << 30}, 0xA700), ({"object_mib": 1}, 0xC001)]
)
def test_limits_have_their_own_status(tmp_path, limits, status):
    running = Receiver(tmp_path, node_config(tmp_path, {"archive": ("PACS", 4242)}, limits=limits))
    try:
        ds = breast_still(rows=900, columns=1300)
        raw = encoded(write(ds, tmp_path / "image.dcm"))
        assert raw_store(running.port, US, ds.SOPInstanceUID, raw) == status
        assert kept(running) == []
    finally:
        running.stop()


def test_strangers_that_stop_in_the_middle_keep_nobody_out(tmp_path):
    listen = {"port": 0, "max_associations": 2, "idle_timeout_s": 2}
    running = Receiver(tmp_path, node_config(tmp_path, {"archive": ("PACS", 4242)}, listen=listen))
    silent = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(4)]
    try:
        for each in silent:
            each.sendall(b"\x01\x00\x00\x00\x10\x00")  # the beginning of an A-ASSOCIATE-RQ
        time.sleep(4)
        still_works(running, tmp_path)
    finally:
        for each in silent:
            each.close()
        running.stop()


def test_an_image_sent_again_after_it_was_given_up_is_tried_again(receiver, tmp_path):
    ds = breast_still(seed=60)
    ds.SOPInstanceUID = pydicom.uid.generate_uid()
    raw = encoded(write(ds, tmp_path / "image.dcm"))
    assert raw_store(receiver.port, US, ds.SOPInstanceUID, raw) == 0x0000
    (line,) = images_of(receiver, ds.SOPInstanceUID)
    receiver.node.emode("jobs", "cancel", str(line["job"]))
    assert raw_store(receiver.port, US, ds.SOPInstanceUID, raw) == 0x0000
    (again,) = images_of(receiver, ds.SOPInstanceUID)
    assert (again["stage"], again["arrivals"]) == ("waiting", 2)
    assert again["job"] > line["job"]


def test_receiving_needs_no_torch(tmp_path):
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no torch on this machine')")
    environment = {"PYTHONPATH": str(broken.parent)}
    running = Receiver(tmp_path, node_config(tmp_path, {"archive": ("PACS", 4242)}), environment)
    try:
        still_works(running, tmp_path)
        maps = Path(f"/proc/{running.process.pid}/maps")
        if maps.exists():  # Linux
            assert "libtorch" not in maps.read_text()
    finally:
        running.stop()


def still_works(receiver: Receiver, folder: Path) -> None:
    """Another honest image is received."""
    ds = breast_still(seed=99)
    ds.SOPInstanceUID = pydicom.uid.generate_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    raw = encoded(write(ds, folder / "honest.dcm"))
    assert raw_store(receiver.port, US, ds.SOPInstanceUID, raw) == 0x0000
    (line,) = images_of(receiver, ds.SOPInstanceUID)
    assert line["stage"] == "waiting"


@pytest.mark.parametrize("trouble", [MemoryError(), OSError(5, "Input/output error")])
def test_trouble_of_our_machine_asks_the_sender_to_try_again(monkeypatch, trouble):
    def take(received):
        raise trouble

    monkeypatch.setattr(scp, "_whole", lambda message, arrival: None)
    guest = SimpleNamespace(arrival=Arrival("PACS", "EMODE", "127.0.0.1"))
    assert scp.StoreScp._store(SimpleNamespace(_take=take), guest, None).status == 0xA700
