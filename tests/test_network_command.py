"""Command sets and file heads of ours, read by pydicom and pynetdicom; and what is no command set."""

from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.dimse_messages import C_STORE_RQ as C_STORE_MESSAGE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode

from dicom_node.core.errors import ObjectUnreadable
from dicom_node.dicom.part10 import dataset_offset, file_head
from dicom_node.network.command import (
    C_ECHO_RQ,
    C_STORE_RQ,
    N_EVENT_REPORT_RQ,
    Command,
    read_command,
    response_to,
)
from dicom_node.network.pdu import IS_COMMAND, IS_LAST, command_pdus, fragments_of
from dicom_node.network.rules import BrokenRule

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"


def encoded_by_pynetdicom(uid: str) -> bytes:
    request = C_STORE()
    request.MessageID, request.Priority = 7, 1
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ULTRASOUND, uid
    request.DataSet = BytesIO(b"x")
    message = C_STORE_MESSAGE()
    message.primitive_to_message(request)
    encoded = encode(message.command_set, True, True)
    assert encoded is not None
    return encoded


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])
def test_a_request_that_pynetdicom_encodes_is_read(uid: str) -> None:
    assert read_command(encoded_by_pynetdicom(uid)) == Command(C_STORE_RQ, 7, ULTRASOUND, uid, True)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Command(C_STORE_RQ, 7, ULTRASOUND, "1.2.3", True), 0xA700),
        (Command(C_ECHO_RQ, 65535, "1.2.840.10008.1.1", "", False), 0),
        (Command(N_EVENT_REPORT_RQ, 1, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", True, 2), 0x0110),
    ],
)
def test_pynetdicom_reads_our_answers(request_: Command, status: int) -> None:
    encoded = response_to(request_, status)
    answer = decode(BytesIO(encoded), True, True)
    assert answer.CommandField == request_.field | 0x8000
    assert answer.MessageIDBeingRespondedTo == request_.message_id
    assert answer.Status == status
    assert answer.CommandDataSetType == 0x0101
    assert answer.AffectedSOPClassUID == request_.sop_class_uid
    assert answer.get("AffectedSOPInstanceUID", "") == request_.sop_instance_uid
    assert answer.get("EventTypeID") == request_.event_type
    # (0000,0000) is the length of all that follows its own twelve bytes.
    assert answer.CommandGroupLength == len(encoded) - 12


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\0" * 7,
        bytes(range(256)),
        b"\0\0\0\1\xff\xff\0\0ab",
        b"\x08\0\x16\0\2\0\0\0\1\0",
        encoded_by_pynetdicom("1.2.3")[:-3],
    ],
)
def test_what_is_no_command_set_breaks_a_rule(noise: bytes) -> None:
    with pytest.raises(BrokenRule):
        read_command(noise)


@pytest.mark.parametrize(("longest", "pdus"), [(0, 1), (16384, 1), (64, 2)])
def test_answers_keep_to_the_longest_pdu_of_the_peer(longest: int, pdus: int) -> None:
    command_set = response_to(Command(C_STORE_RQ, 7, ULTRASOUND, "1.2.3", True), 0)
    stream, whole, controls = command_pdus(5, command_set, longest), b"", []
    while stream:
        length = int.from_bytes(stream[2:6], "big")
        assert stream[0] == 0x04
        assert not longest or length <= longest
        for fragment in fragments_of(memoryview(stream[6 : 6 + length])):
            assert fragment.context_id == 5
            whole += fragment.some
            controls.append(fragment.control)
        stream = stream[6 + length :]
    assert whole == command_set
    assert controls == [IS_COMMAND] * (pdus - 1) + [IS_COMMAND | IS_LAST]


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34", ""])
def test_a_file_head_and_a_data_set_are_a_part_10_file(uid: str, tmp_path) -> None:
    ds = Dataset()
    ds.PatientID = "A"
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    path = tmp_path / "file.dcm"
    head = file_head(ULTRASOUND, uid, "1.2.840.10008.1.2.1")
    path.write_bytes(head + buffer.getvalue())
    read = dcmread(path)
    assert read.PatientID == "A"
    assert read.file_meta.MediaStorageSOPInstanceUID == uid
    assert read.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert dataset_offset(path) == len(head)


def test_half_a_head_is_none(tmp_path) -> None:
    path = tmp_path / "file.dcm"
    path.write_bytes(file_head(ULTRASOUND, "1.2.3", "1.2.840.10008.1.2.1")[:140])
    with pytest.raises(ObjectUnreadable):
        dataset_offset(path)
