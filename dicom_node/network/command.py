"""Command sets (PS3.7 6.3.1): a handful of elements in Implicit VR Little Endian."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dicom_node.network.rules import BrokenRule

C_STORE_RQ = 0x0001
C_FIND_RQ = 0x0020
C_ECHO_RQ = 0x0030
C_CANCEL_RQ = 0x0FFF
N_EVENT_REPORT_RQ = 0x0100
N_ACTION_RQ = 0x0130
_RESPONSE = 0x8000

_A_DATA_SET, _NO_DATA_SET = 0x0001, 0x0101  # (0000,0800), PS3.7 Table 9.3-1
_MEDIUM = 0x0000  # (0000,0700)
_HEADER = struct.Struct("<HHL")
_US = struct.Struct("<H")

_AFFECTED_SOP_CLASS_UID = 0x0002
_REQUESTED_SOP_CLASS_UID = 0x0003
_COMMAND_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
_PRIORITY = 0x0700
_COMMAND_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_OFFENDING_ELEMENT = 0x0901
_ERROR_COMMENT = 0x0902
_AFFECTED_SOP_INSTANCE_UID = 0x1000
_REQUESTED_SOP_INSTANCE_UID = 0x1001
_EVENT_TYPE_ID = 0x1002
_ACTION_TYPE_ID = 0x1008


@dataclass(frozen=True, slots=True)
class Command:
    """A request, as far as it concerns somebody who stores, echoes and takes reports.

    Elements that are absent, and values that are none, are None or empty: whether they are needed depends
    on the request.
    """

    field: int
    message_id: int | None
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool
    event_type: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, as far as it concerns somebody who has asked."""

    field: int
    """Of the request that it answers."""
    message_id: int
    """Of the request that it answers."""
    status: int
    has_data_set: bool
    comment: bytes
    """Error Comment (PS3.7 C.4), as it came."""
    offending: tuple[tuple[int, int], ...]
    """Offending Element: (group, element)."""


def is_answer(encoded: bytes | bytearray) -> bool:
    """Does a command set answer something? Otherwise it asks; raises BrokenRule if it can do neither."""
    field = _whole(_elements(encoded), _COMMAND_FIELD)
    if field is None:
        raise BrokenRule("command-set-unreadable")
    return bool(field & _RESPONSE)


def read_answer(encoded: bytes | bytearray) -> Answer:
    """Read a command set that answers; raises BrokenRule if it lacks what every answer has."""
    elements = _elements(encoded)
    field = _whole(elements, _COMMAND_FIELD)
    message_id = _whole(elements, _MESSAGE_ID_BEING_RESPONDED_TO)
    data_set_type = _whole(elements, _COMMAND_DATA_SET_TYPE)
    status = _whole(elements, _STATUS)
    if field is None or message_id is None or data_set_type is None or status is None:
        raise BrokenRule("command-set-unreadable")
    tags = elements.get(_OFFENDING_ELEMENT, b"")
    return Answer(
        field=field & ~_RESPONSE,
        message_id=message_id,
        status=status,
        has_data_set=data_set_type != _NO_DATA_SET,
        comment=elements.get(_ERROR_COMMENT, b""),
        offending=tuple(struct.iter_unpack("<HH", tags[: len(tags) // 4 * 4])),
    )


def c_store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """PS3.7 9.3.1.1; the data set follows."""
    return _request(
        C_STORE_RQ,
        message_id,
        data_set=True,
        elements={
            _AFFECTED_SOP_CLASS_UID: _even(sop_class_uid),
            _PRIORITY: _US.pack(_MEDIUM),
            _AFFECTED_SOP_INSTANCE_UID: _even(sop_instance_uid),
        },
    )


def c_find_request(message_id: int, sop_class_uid: str) -> bytes:
    """PS3.7 9.3.2.1; the identifier follows."""
    elements = {_AFFECTED_SOP_CLASS_UID: _even(sop_class_uid), _PRIORITY: _US.pack(_MEDIUM)}
    return _request(C_FIND_RQ, message_id, data_set=True, elements=elements)


def c_echo_request(message_id: int, sop_class_uid: str) -> bytes:
    """PS3.7 9.3.5.1."""
    return _request(
        C_ECHO_RQ, message_id, data_set=False, elements={_AFFECTED_SOP_CLASS_UID: _even(sop_class_uid)}
    )


def n_action_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, action: int) -> bytes:
    """PS3.7 10.3.4.1; the action information follows."""
    return _request(
        N_ACTION_RQ,
        message_id,
        data_set=True,
        elements={
            _REQUESTED_SOP_CLASS_UID: _even(sop_class_uid),
            _REQUESTED_SOP_INSTANCE_UID: _even(sop_instance_uid),
            _ACTION_TYPE_ID: _US.pack(action),
        },
    )


def read_command(encoded: bytes | bytearray) -> Command:
    """Read a command set; raises BrokenRule if it is none, or lacks what every request has."""
    elements = _elements(encoded)
    field = _whole(elements, _COMMAND_FIELD)
    data_set_type = _whole(elements, _COMMAND_DATA_SET_TYPE)
    if field is None or data_set_type is None:
        raise BrokenRule("command-set-unreadable")
    return Command(
        field=field,
        message_id=_whole(elements, _MESSAGE_ID),
        sop_class_uid=_uid(elements, _AFFECTED_SOP_CLASS_UID),
        sop_instance_uid=_uid(elements, _AFFECTED_SOP_INSTANCE_UID),
        has_data_set=data_set_type != _NO_DATA_SET,
        event_type=_whole(elements, _EVENT_TYPE_ID),
    )


def response_to(request: Command, status: int) -> bytes:
    """The command set that answers a request (PS3.7 9.3.1.2, 9.3.5.2, 10.3.1.2); no data set follows it."""
    elements = [
        (_AFFECTED_SOP_CLASS_UID, _even(request.sop_class_uid)),
        (_COMMAND_FIELD, _US.pack(request.field | _RESPONSE)),
        (_MESSAGE_ID_BEING_RESPONDED_TO, _US.pack(request.message_id or 0)),
        (_COMMAND_DATA_SET_TYPE, _US.pack(_NO_DATA_SET)),
        (_STATUS, _US.pack(status)),
    ]
    if request.sop_instance_uid:
        elements.append((_AFFECTED_SOP_INSTANCE_UID, _even(request.sop_instance_uid)))
    if request.event_type is not None:
        elements.append((_EVENT_TYPE_ID, _US.pack(request.event_type)))
    return _command_set(elements)


def _request(field: int, message_id: int, *, data_set: bool, elements: Mapping[int, bytes]) -> bytes:
    common = {
        _COMMAND_FIELD: _US.pack(field),
        _MESSAGE_ID: _US.pack(message_id),
        _COMMAND_DATA_SET_TYPE: _US.pack(_A_DATA_SET if data_set else _NO_DATA_SET),
    }
    return _command_set(sorted((common | dict(elements)).items()))


def _command_set(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """Elements by ascending number, with the group length before them (PS3.7 6.3.1)."""
    body = b"".join(_HEADER.pack(0, number, len(value)) + value for number, value in elements)
    return _HEADER.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _elements(encoded: bytes | bytearray) -> dict[int, bytes]:
    """Element number -> value, of group 0000; raises BrokenRule for lengths that lie, and other groups."""
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(encoded):
        if len(encoded) - at < _HEADER.size:
            raise BrokenRule("command-set-unreadable")
        group, number, length = _HEADER.unpack_from(encoded, at)
        at += _HEADER.size
        if group != 0 or length > len(encoded) - at:
            raise BrokenRule("command-set-unreadable")
        elements[number] = bytes(encoded[at : at + length])
        at += length
    return elements


def _whole(elements: Mapping[int, bytes], number: int) -> int | None:
    value = elements.get(number, b"")
    return int(_US.unpack(value)[0]) if len(value) == _US.size else None


def _uid(elements: Mapping[int, bytes], number: int) -> str:
    """As it stands, for whoever refuses it to see; only the padding goes (PS3.5 9.1)."""
    return elements.get(number, b"").decode("ascii", errors="replace").rstrip("\0 ")


def _even(uid: str) -> bytes:
    value = uid.encode("ascii", errors="replace")
    return value + b"\0" * (len(value) % 2)
