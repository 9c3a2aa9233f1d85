"""Attribute values of a data set that may hold anything: what cannot be read is absent, and costs little."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

_LARGEST_TEXT = 1 << 16
"""Bytes above which a value is not taken apart: half a million numbers where one belongs take seconds."""

_LARGEST_SEQUENCE = 1 << 17
"""The same for the items of a sequence. Sixteen thousand empty ones fit."""

_ASCII = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"))
"""VRs that no character set concerns (PS3.5 6.1.2.2). Their bytes are read as they stand, in a tenth of the
parser's time: headers are read while a sender waits."""

_LISTS, _PROSE = frozenset(("LO", "SH")), frozenset(("LT", "ST", "UT"))
"""VRs that a character set concerns; a backslash divides values in the first only (PS3.5 6.2). Printable
ASCII is the same in every set that DICOM has, so that it is read as it stands, too."""


@contextmanager
def pydicom_quiet() -> Iterator[None]:
    """Keep pydicom's warnings to itself: odd values are normal here, and its texts quote patient data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def element_value(ds: Dataset, keyword: str) -> object:
    """The value as pydicom reads it, or None if it is absent or cannot be read."""
    tag = _tag_of(keyword)
    if tag is None:
        return None
    before = as_read(ds, tag)
    if before is None or _was_stepped_over(before):
        return None
    try:
        with pydicom_quiet():
            value: object = ds[tag].value
    # Boundary: a value that breaks its VR's rules raises whatever the conversion happens to raise.
    except Exception:  # noqa: BLE001
        return None
    # pydicom puts the converted element in the raw one's place; results copy the raw one, byte for byte.
    # Past __setitem__, which converts some elements once more to learn from them, and raises what it likes.
    ds._dict[tag] = before
    return value


def is_stepped_over(ds: Dataset, tag: BaseTag) -> bool:
    """Was the value left in the file because no attribute we use is so large?"""
    return _was_stepped_over(as_read(ds, tag))


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """The values as stripped strings; empty if absent or unreadable."""
    element = _element(ds, keyword)
    if element is None or _raw_length(element) > _LARGEST_TEXT:
        return ()
    words = _as_it_stands(element)
    if words is None:
        value = element_value(ds, keyword)
        if value is None or isinstance(value, bytes | Sequence):
            return ()
        words = [str(part) for part in (value if isinstance(value, list | tuple | MultiValue) else (value,))]
    values = tuple([word.strip(" \0") for word in words])
    return values if any(values) else ()


def text(ds: Dataset, keyword: str) -> str:
    """The first value as a stripped string; empty if absent or unreadable."""
    values = texts(ds, keyword)
    return values[0] if values else ""


def number(ds: Dataset, keyword: str) -> float | None:
    """The first value as a finite number, or None."""
    try:
        value = float(text(ds, keyword))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def whole_number(ds: Dataset, keyword: str) -> int | None:
    """The first value as an integer, or None."""
    value = number(ds, keyword)
    return int(value) if value is not None and value == int(value) else None


def items(ds: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; empty if it is absent, unreadable or not a sequence."""
    element = _element(ds, keyword)
    if element is None or _raw_length(element) > _LARGEST_SEQUENCE:
        return ()
    value = element_value(ds, keyword)
    return tuple(value) if isinstance(value, Sequence) else ()


@cache
def _tag_of(keyword: str) -> BaseTag | None:
    tag = tag_for_keyword(keyword)
    return None if tag is None else tag_of(tag)


@lru_cache(1024)
def tag_of(number: int) -> BaseTag:
    """The tag with this number: the same object for the same number, mostly.

    pydicom compares two tags in Python, but Python finds by itself that an object is the one it looks for.
    """
    return BaseTag(number)


def as_read(ds: Dataset, tag: BaseTag) -> DataElement | RawDataElement | None:
    """An element as it was read, or None. Past __getitem__, which parses it."""
    return ds._dict.get(tag)


def _element(ds: Dataset, keyword: str) -> DataElement | RawDataElement | None:
    tag = _tag_of(keyword)
    return None if tag is None else as_read(ds, tag)


def _was_stepped_over(element: object) -> bool:
    return isinstance(element, RawDataElement) and element.value is None and element.length > 0


def _raw_length(element: object) -> int:
    """Bytes of a value that is still as it stands in the file; 0 if it is not."""
    return len(element.value or b"") if isinstance(element, RawDataElement) else 0


def _as_it_stands(element: object) -> list[str] | None:
    """The values of an element of printable ASCII, or one number of 16 bits; None if it takes a parser."""
    if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
        return None
    vr = element.VR or _usual_vr(element.tag)
    if vr in _ASCII:
        return element.value.decode("latin-1").split("\\")
    if vr in _LISTS or vr in _PROSE:
        words = element.value.rstrip(b"\0 ").decode("latin-1")
        if words.isascii() and words.isprintable():
            return words.split("\\") if vr in _LISTS else [words]
        return None
    if vr == "US" and len(element.value) == 2:
        return [str(int.from_bytes(element.value, "little" if element.is_little_endian else "big"))]
    return None


@cache  # of tags that we ask for by keyword: some dozens
def _usual_vr(tag: BaseTag) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"
