"""Attribute values of a data set that may hold anything: what cannot be read is absent, and costs little."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

_LARGEST_TEXT = 1 << 16
"""Bytes above which a value is not taken apart: half a million numbers where one belongs take seconds."""

_LARGEST_SEQUENCE = 1 << 17
"""The same for the items of a sequence. Sixteen thousand empty ones fit."""


@contextmanager
def pydicom_quiet() -> Iterator[None]:
    """Keep pydicom's warnings to itself: odd values are normal here, and its texts quote patient data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def element_value(ds: Dataset, keyword: str) -> object:
    """The value as pydicom reads it, or None if it is absent or cannot be read."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in ds or is_stepped_over(ds, BaseTag(tag)):
        return None
    as_read = ds.get_item(tag, keep_deferred=True)
    try:
        with pydicom_quiet():
            value: object = ds[tag].value
    # Boundary: a value that breaks its VR's rules raises whatever the conversion happens to raise.
    except Exception:  # noqa: BLE001
        return None
    # pydicom puts the converted element in the raw one's place; results copy the raw one, byte for byte.
    # Past __setitem__, which converts some elements once more to learn from them, and raises what it likes.
    if as_read is not None:
        ds._dict[BaseTag(tag)] = as_read
    return value


def is_stepped_over(ds: Dataset, tag: BaseTag) -> bool:
    """Was the value left in the file because no attribute we use is so large?"""
    element = ds.get_item(tag, keep_deferred=True)
    return isinstance(element, RawDataElement) and element.value is None and element.length > 0


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """The values as stripped strings; empty if absent or unreadable."""
    if _raw_length(ds, keyword) > _LARGEST_TEXT:
        return ()
    value = element_value(ds, keyword)
    if value is None or isinstance(value, bytes | Sequence):
        return ()
    if isinstance(value, list | tuple | MultiValue):
        values = tuple(str(part).strip(" \0") for part in value)
    else:
        values = (str(value).strip(" \0"),)
    return values if any(values) else ()


def text(ds: Dataset, keyword: str) -> str:
    """The first value as a stripped string; empty if absent or unreadable."""
    return next(iter(texts(ds, keyword)), "")


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
    if _raw_length(ds, keyword) > _LARGEST_SEQUENCE:
        return ()
    value = element_value(ds, keyword)
    return tuple(value) if isinstance(value, Sequence) else ()


def _raw_length(ds: Dataset, keyword: str) -> int:
    """Bytes of a value that is still as it stands in the file; 0 if it is not, or absent."""
    tag = tag_for_keyword(keyword)
    element = ds.get_item(tag, keep_deferred=True) if tag is not None and tag in ds else None
    return len(element.value or b"") if isinstance(element, RawDataElement) else 0
