"""The frame of a DICOM file: what stands before the data set, and where the data set begins."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from dicom_node.core.errors import ObjectUnreadable
from dicom_node.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_PREAMBLE = 128
_GROUP_LENGTH_ELEMENT = struct.Struct("<HH2sHL")  # (0002,0000) UL, always Explicit VR Little Endian


def dataset_offset(path: Path) -> int:
    """Byte at which the data set begins (PS3.10 7.1).

    Raises ObjectUnreadable if the file does not begin as Part 10 says, OSError if it cannot be read now.
    """
    with path.open("rb") as file:
        return begin_of_data_set(file)


def begin_of_data_set(file: BinaryIO) -> int:
    """`dataset_offset` of a file that is open at its first byte; raises as that does."""
    head = file.read(_PREAMBLE + 4 + _GROUP_LENGTH_ELEMENT.size)
    if head[_PREAMBLE : _PREAMBLE + 4] != b"DICM" or len(head) < _PREAMBLE + 4 + _GROUP_LENGTH_ELEMENT.size:
        raise ObjectUnreadable("no DICM prefix after the preamble")
    group, element, vr, _, length = _GROUP_LENGTH_ELEMENT.unpack(head[_PREAMBLE + 4 :])
    if (group, element, vr) != (0x0002, 0x0000, b"UL"):
        raise ObjectUnreadable("the file meta information has no group length")
    return int(len(head) + length)


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta information (PS3.10 7.1), for a data set to follow as it came.

    UIDs are written as they are given; a receiver checks them once it has the whole object.
    """
    elements = b"".join(
        (
            struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax_uid),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements))
    return bytes(_PREAMBLE) + b"DICM" + length + elements


def _element(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", errors="replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value
