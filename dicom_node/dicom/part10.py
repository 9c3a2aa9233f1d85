"""The frame of a DICOM file: where the file meta information ends and the data set begins."""

from __future__ import annotations

import struct
from pathlib import Path

from dicom_node.core.errors import ObjectUnreadable

_PREAMBLE = 128
_GROUP_LENGTH_ELEMENT = struct.Struct("<HH2sHL")  # (0002,0000) UL, always Explicit VR Little Endian


def dataset_offset(path: Path) -> int:
    """Byte at which the data set begins (PS3.10 7.1).

    Raises ObjectUnreadable if the file does not begin as Part 10 says, OSError if it cannot be read now.
    """
    with path.open("rb") as file:
        head = file.read(_PREAMBLE + 4 + _GROUP_LENGTH_ELEMENT.size)
    if head[_PREAMBLE : _PREAMBLE + 4] != b"DICM" or len(head) < _PREAMBLE + 4 + _GROUP_LENGTH_ELEMENT.size:
        raise ObjectUnreadable("no DICM prefix after the preamble")
    group, element, vr, _, length = _GROUP_LENGTH_ELEMENT.unpack(head[_PREAMBLE + 4 :])
    if (group, element, vr) != (0x0002, 0x0000, b"UL"):
        raise ObjectUnreadable("the file meta information has no group length")
    return int(len(head) + length)
