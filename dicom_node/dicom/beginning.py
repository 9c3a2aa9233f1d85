"""The attributes of a data set whose beginning is in memory: what is of the ordinary form, in one pass.

pydicom reads files, and whatever scanners write; that takes longer than the disk, while a sender waits. What
is not exactly as PS3.5 7 says is left to it, with all that it forgives and refuses: nothing is judged here.
"""

from __future__ import annotations

import struct

from pydicom import Dataset
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from dicom_node.dicom.values import tag_of

_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHL").unpack_from
_LENGTH = struct.Struct("<L").unpack_from

_UNDEFINED = 0xFFFFFFFF
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_GROUP = 0x0008
"""Those below belong to command sets and the file meta information, which have an encoding of their own."""
_DELIMITERS = 0xFFFE
_SPECIFIC_CHARACTER_SET = 0x00080005
_DEEPEST = 8
"""Sequences of undefined length inside one another."""

_VRS = {vr.encode(): str(vr) for vr in VR if len(vr) == 2}
_LONG = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32 if len(vr) == 2)
"""VRs whose length has 32 bits (PS3.5 7.1.2)."""
_EMPTY = {vr: empty_value_for_VR(vr, raw=True) for vr in (None, *_VRS.values())}
"""VR -> what pydicom puts in the place of a value without bytes."""
_OTHERWISE_ENCODED = frozenset((str(DeflatedExplicitVRLittleEndian), str(ExplicitVRBigEndian)))

_Elements = dict[BaseTag, DataElement | RawDataElement]


class _Unusual(Exception):
    """Something that is left to pydicom."""


def read_beginning(some: bytes, transfer_syntax_uid: str, *, is_whole: bool) -> Dataset | None:
    """The attributes before the pixels, raw, as `header.read_dataset` gives them; None if it has to be asked.

    some      the first bytes of the data set; enough if the pixels begin within them
    is_whole  there are no others: then there need not be pixels
    """
    if transfer_syntax_uid in _OTHERWISE_ENCODED:
        return None
    elements: _Elements = {}
    walk = _Walk(some, implicit=transfer_syntax_uid == ImplicitVRLittleEndian)
    try:
        at_pixels = walk.top(elements)
    except (_Unusual, struct.error):  # the latter: an element whose first bytes are not all there
        return None
    return Dataset(elements) if at_pixels or is_whole else None


class _Walk:
    """From element to element. Its methods raise _Unusual or struct.error."""

    def __init__(self, some: bytes, *, implicit: bool) -> None:
        self._some, self._end = some, len(some)
        self._implicit = implicit

    def top(self, elements: _Elements) -> bool:
        """Collect the elements before the pixels; False if there are no pixels."""
        some, end, implicit = self._some, self._end, self._implicit
        if implicit and some[4:6].isalpha() and some[4:6].isupper():
            raise _Unusual  # pydicom takes this for the other encoding
        at = 0
        while at < end:
            tag, vr, length, at = self._next(at)
            if tag in _PIXELS:
                return True
            if length == _UNDEFINED:
                stop = self._sequence_end(at, vr, tag, 0)
                after = stop + 8
            else:
                after = stop = at + length
                if stop > end:
                    raise _Unusual
            value = some[at:stop] or _EMPTY[vr]
            if tag == _SPECIFIC_CHARACTER_SET and not _is_known(vr, value):
                raise _Unusual
            key = tag_of(tag)
            elements[key] = RawDataElement(key, vr, stop - at, value, at, implicit, True)  # type: ignore[arg-type]
            at = after
        return False

    def _next(self, at: int) -> tuple[int, str | None, int, int]:
        """Tag, VR, length, and where the value begins."""
        if self._implicit:
            group, number, length = _IMPLICIT(self._some, at)
            vr = None
            at += 8
        else:
            group, number, code, length = _EXPLICIT(self._some, at)
            vr = _VRS.get(code)
            if vr is None:
                raise _Unusual
            at += 8
            if code in _LONG:
                (length,) = _LENGTH(self._some, at)
                at += 4
        if group < _FIRST_GROUP or group == _DELIMITERS:
            raise _Unusual
        return group << 16 | number, vr, length, at

    def _sequence_end(self, at: int, vr: str | None, tag: int, depth: int) -> int:
        """Where the end of a sequence of undefined length stands whose first item begins here."""
        if depth == _DEEPEST or (vr or _usual_vr(tag)) != "SQ":
            raise _Unusual
        while True:
            group, number, length = _IMPLICIT(self._some, at)
            mark = group << 16 | number
            if mark == _SEQUENCE_END:
                return at
            if mark != _ITEM:
                raise _Unusual
            at = self._item_end(at + 8, length, depth)

    def _item_end(self, at: int, length: int, depth: int) -> int:
        """What comes after an item that begins here; its elements have to fill it exactly."""
        end = self._end if length == _UNDEFINED else at + length
        if end > self._end:
            raise _Unusual
        while at < end:
            if length == _UNDEFINED:
                group, number, _ = _IMPLICIT(self._some, at)
                if group << 16 | number == _ITEM_END:
                    return at + 8
            tag, vr, size, at = self._next(at)
            at = at + size if size != _UNDEFINED else self._sequence_end(at, vr, tag, depth + 1) + 8
        if at != end or length == _UNDEFINED:
            raise _Unusual
        return at


def _is_known(vr: str | None, value: object) -> bool:
    """Are these character sets of DICOM (PS3.3 C.12.1.1.2), spelled as there?"""
    names = value.decode("latin-1").rstrip(" ").split("\\") if isinstance(value, bytes) else ()
    return vr in (None, "CS") and all(name in python_encoding for name in names)


def _usual_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""
