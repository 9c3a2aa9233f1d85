"""Marked patients go through everything a node does, and only the objects themselves say who they are.

Searched is every other byte: logs, tables, screens, what a kill leaves behind.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import SecondaryCaptureImageStorage

from dicom_node.demo.child import free_ports
from harness import Node, node_config, raw_store
from peers.still import US_IMAGE, breast_still, region, write

pytestmark = [
    pytest.mark.slow,
    # Our own sender is the one who is told.
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning"),
]

MARK = "ZQXJ"
"""In every marked value, and in nothing else on this machine."""
BORN = "19031104"
ACCESSION = "ACC-WVK-7"
"""The schema keeps it, to find a study by; a log never does."""

NAMES = {
    "ISO_IR 100": f"{MARK}Müller^{MARK}Anna".encode("latin-1"),
    "ISO_IR 192": f"{MARK}Wang^{MARK}XiaoDong=王^小东".encode(),
    "\\ISO 2022 IR 87": f"{MARK}Yamada^{MARK}Tarou=".encode() + b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
    "GB18030": f"{MARK}Li^{MARK}Si=".encode() + "王^小东".encode("gb18030"),
}
WORDS = ("王", "小东", "山田", "太郎", "Müller")

TEXTS = {
    keyword: f"{MARK} {keyword}"[:60]
    for keyword in (
        *("StudyDescription", "SeriesDescription", "PatientComments", "ImageComments", "ProtocolName"),
        *("AdmittingDiagnosesDescription", "AdditionalPatientHistory", "PatientAddress", "OtherPatientNames"),
        *("ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName", "InstitutionAddress"),
        *("InstitutionName", "InstitutionalDepartmentName", "DerivationDescription", "RequestingService"),
        *("DeviceSerialNumber", "ManufacturerModelName", "Manufacturer", "RequestedProcedureDescription"),
    )
} | {
    keyword: f"{MARK}{keyword}"[:16]
    for keyword in ("StudyID", "StationName", "PatientMotherBirthName", "Occupation", "AdmissionID")
}
CODES = {"BodyPartExamined": f"{MARK}PART", "Modality": f"{MARK}M"}
"""Code strings: a route that does not take them says so."""


def patient(number: int, character_set: str = "ISO_IR 100", **attributes: object) -> Dataset:
    sets = character_set.split("\\")
    return breast_still(
        seed=number,
        instance_number=number,
        study=f"marked {number}",
        character_set=sets if len(sets) > 1 else sets[0],
        patient_name=NAMES[character_set],
        patient_id=f"{MARK}-{number}",
        regions=[region((0, 0, 320, 240))],
        **({**TEXTS, "PatientBirthDate": BORN, "AccessionNumber": ACCESSION} | attributes),
    )


class Gossip:
    """An archive that quotes the patient in every answer: takes the first result, refuses the others."""

    def __init__(self) -> None:
        self.asked = 0
        ae = AE("GOSSIP")
        ae.add_supported_context(SecondaryCaptureImageStorage)
        self._server = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        self.port = self._server.socket.getsockname()[1]
        self._lock = threading.Lock()

    def _store(self, event: evt.Event) -> Dataset:
        with self._lock:
            self.asked += 1
            first = self.asked == 1
        ds = event.dataset
        answer = Dataset()
        answer.Status = 0xB000 if first else 0xC123
        born = f"{BORN[6:]}.{BORN[4:6]}.{BORN[:4]}"
        answer.ErrorComment = f"dup {ds.PatientID} {born} {str(ds.PatientName).split('^')[0]}"[:64]
        return answer

    def stop(self) -> None:
        self._server.shutdown()


def hostile() -> list[tuple[str, bytes]]:
    """Marked files that are refused or cannot be decoded: (SOP Instance UID of the command, data set)."""
    content = []
    for number, attributes in enumerate(
        (
            {"PixelData": None},
            {"Rows": 60000, "Columns": 60000},
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
            CODES,
        )
    ):
        content.append(patient(20 + number, **attributes))
    found = [(str(ds.SOPInstanceUID), _bytes_of(ds)) for ds in content]
    uid, sound = str(content[1].StudyInstanceUID), found[1][1]
    for liar in (f"{MARK}^ANNA", f"1.2.{MARK}", f"{MARK}\r\n{BORN}"):
        # A name where a UID belongs, in the data set and in the command.
        found.append((found[1][0], sound.replace(uid.encode(), liar.encode().ljust(len(uid), b"\0"))))
    found.append((f"{MARK}^COMMAND", sound))
    found += [(found[1][0], sound[:cut]) for cut in (20, 300, 900)]
    found.append((found[1][0], sound.replace(b"PN", b"SQ", 1)))
    found.append((found[1][0], sound.replace(b"ISO_IR 100", b"utf-16    ")))
    return found


def _bytes_of(ds: Dataset) -> bytes:
    from io import BytesIO

    from pydicom.filebase import DicomFileLike
    from pydicom.filewriter import write_dataset

    buffer = BytesIO()
    file = DicomFileLike(buffer)
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, ds)
    return buffer.getvalue()


def send(data_sets: list[Dataset], port: int) -> list[int]:
    ae = AE("SCANNER")
    ae.add_requested_context(US_IMAGE)
    association = ae.associate("127.0.0.1", port, ae_title="EMODE")
    statuses = [association.send_c_store(ds).Status for ds in data_sets]
    association.release()
    return statuses


COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("studies",),
    ("jobs", "list"),
    ("jobs", "list", "--json"),
    ("destinations",),
    ("check",),
)


def test_no_patient_in_logs_tables_screens_and_leftovers(tmp_path: Path) -> None:
    gossip = Gossip()
    written: dict[str, bytes] = {}
    config = node_config(
        tmp_path,
        {"gossip": ("GOSSIP", gossip.port), "dead": ("DEAD", 1)},
        log={"format": "json", "level": "debug"},
        routes=[{"name": "breast", "destinations": ["gossip", "dead"], "match": {"body_part": ["BREAST"]}}],
    )
    config["destinations"]["gossip"]["confirm"] = "none"
    good = [patient(number, name) for number, name in enumerate(NAMES)]
    node = Node(tmp_path, config)
    try:
        with node:
            assert send(good, node.port) == [0] * len(good)
            send_hostile(node.port)
            node.wait(lambda: gossip.asked >= len(good), "the archive was asked", 180, every_s=0.5)
            node.wait(lambda: _refusals(tmp_path) >= 2, "refusals are recorded", 120, every_s=0.5)
            for command in COMMANDS:
                ran = node.emode(*command, check=False)
                written[f"emode {' '.join(command)}"] = (ran.stdout + ran.stderr).encode()
            ran = node.emode("inspect", str(write(good[0], tmp_path / "outside" / "a.dcm")), check=False)
            written["emode inspect, errors"] = ran.stderr.encode()
            node.kill()
        _serve_again_with_a_text_log(node, config)
    finally:
        gossip.stop()
    written["log"] = "\n".join(node.stderr).encode()
    assert any(line.startswith("{") for line in node.stderr)
    assert any("INFO image received action=image-received" in line for line in node.stderr)
    assert ACCESSION.encode() not in written["log"]
    for path in tmp_path.rglob("*"):
        objects = {"source", "result", "incoming", "outside"} & set(path.relative_to(tmp_path).parts)
        if path.is_file() and not objects:
            written[str(path.relative_to(tmp_path))] = path.read_bytes()
    assert any("sqlite" in name for name in written)
    said = [
        (name, mark, content[max(0, content.find(mark) - 80) :][:200])
        for name, content in written.items()
        for mark in marks()
        if mark in content
    ]
    assert not said, "\n".join(map(str, said))


def send_hostile(port: int) -> None:
    for uid, content in hostile():
        raw_store(port, US_IMAGE, uid, content, syntax="1.2.840.10008.1.2.1")


def _serve_again_with_a_text_log(node: Node, config: dict[str, Any]) -> None:
    """The harness takes the port from a JSON line: here it is fixed."""
    (port,) = free_ports(1)
    settings = config | {"listen": {"port": port}, "log": {"format": "text", "level": "debug"}}
    node.config_file.write_text(yaml.safe_dump(settings))
    node.start(roles=())
    for role in ("receiver", "worker", "courier"):
        ready = f"role={role}"
        node.wait(
            lambda ready=ready: any("action=ready" in line and ready in line for line in node.stderr),
            f"{role} is ready",
            120,
        )
    assert send([patient(50)], port) == [0]
    send_hostile(port)
    assert node.stop() == 0


def marks() -> list[bytes]:
    """Every marked value as bytes, in the encodings in which it may have been written."""
    found = [MARK, BORN, f"{BORN[6:]}.{BORN[4:6]}.{BORN[:4]}", f"{BORN[:4]}-{BORN[4:6]}-{BORN[6:]}", *WORDS]
    encoded = [word.encode(name) for word in found for name in ("utf-8", "utf-16-le")]
    encoded += [word.encode("gb18030") for word in WORDS[:2]]
    return encoded


def _refusals(folder: Path) -> int:
    with sqlite3.connect(folder / "data" / "state.sqlite") as database:
        (count,) = database.execute("select count(*) from deliveries where words is not null").fetchone()
    database.close()
    return int(count)
