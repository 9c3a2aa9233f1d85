"""Elements copied from one data set to another byte for byte.

Decoding and encoding again loses what it does not understand: escape sequences of ISO 2022 IR 58, GBK
bytes that claim to be ISO_IR 100, a birth date of `1970`. What an archive saw in the source it must see
in the result, so values are moved as they are, never as text.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from dicom_node.core.errors import ObjectUnreadable
from dicom_node.dicom.header import is_stepped_over, items, pydicom_quiet, texts

_DEEPEST = 16
"""Levels of sequences. What is copied has four at most; each costs a copy of everything below it."""

_WORD_BYTES = {"US": 2, "SS": 2, "OW": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4}
_WORD_BYTES |= {"FD": 8, "OD": 8, "SV": 8, "UV": 8, "OV": 8}
_PADDED_WITH_NUL = {"UI", "OB", "UN"}


def copy_verbatim(source: Dataset, target: Dataset, tags: Iterable[BaseTag], depth: int = 0) -> None:
    """Copy those of the elements that `source` has into `target`, for Explicit VR Little Endian.

    Sequences are copied item by item; private elements and values too large to have been read are not.
    Numbers of a big-endian source are turned round; text has no byte order.
    Raises ObjectUnreadable if sequences are nested deeper than any of the standard.
    """
    if depth > _DEEPEST:
        raise ObjectUnreadable(f"sequences are nested more than {_DEEPEST} deep")
    for tag in tags:
        if tag not in source or tag.is_private or is_stepped_over(source, tag):
            continue
        element = source.get_item(tag, keep_deferred=True)
        vr = _vr_of(tag, element.VR if element is not None else None)
        if vr == "SQ":
            copied = [_copied_item(item, depth + 1) for item in items(source, keyword_for_tag(tag))]
            # None of those that we copy may be there without an item.
            if copied:
                target[tag] = DataElement(tag, "SQ", Sequence(copied))
        elif element is not None:
            value = _padded(_bytes_of(element, vr), vr)
            target[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def tags_of(keywords: Iterable[str]) -> tuple[BaseTag, ...]:
    """Tags of attributes by keyword; KeyError for a keyword that the dictionary lacks."""
    tags = []
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise KeyError(keyword)
        tags.append(BaseTag(tag))
    return tuple(tags)


def keep_as_written(ds: Dataset) -> None:
    """Tell pydicom that raw elements of `ds` are already Explicit VR Little Endian in their character set.

    Without it, pydicom decodes and encodes every one of them when it writes.
    """
    names = list(texts(ds, "SpecificCharacterSet"))
    with pydicom_quiet():
        encodings = convert_encodings(names) if names else default_encoding
    ds.set_original_encoding(False, True, encodings)


def raw_bytes(ds: Dataset, tag: BaseTag) -> bytes | None:
    """The value as it stands in the file, without padding; None if absent or not raw."""
    element = ds.get_item(tag, keep_deferred=True) if tag in ds else None
    if not isinstance(element, RawDataElement):
        return None
    return (element.value or b"").rstrip(b" \0")


def _copied_item(item: Dataset, depth: int) -> Dataset:
    copied = Dataset()
    tags = [BaseTag(tag) for tag in item.keys()]  # noqa: SIM118 - a data set iterates elements
    if "CodeMeaning" in item:
        # The attributes of a code are there with a value or not at all (PS3.3 8.8).
        tags = [tag for tag in tags if _has_value(item, tag)]
    copy_verbatim(item, copied, tags, depth)
    keep_as_written(copied)
    return copied


def _has_value(ds: Dataset, tag: BaseTag) -> bool:
    element = ds.get_item(tag, keep_deferred=True)
    return not isinstance(element, RawDataElement) or bool((element.value or b"").strip(b" \0"))


def _padded(value: bytes, vr: str) -> bytes:
    """To even length (PS3.5 6.2). UIDs padded with spaces, as some archives do, get their NUL back."""
    if vr == "UI":
        value = value.rstrip(b" \0")
    return value + (b"\0" if vr in _PADDED_WITH_NUL else b" ") * (len(value) % 2)


def _vr_of(tag: BaseTag, written: str | None) -> str:
    """The dictionary's VR: the source may be Implicit VR, or have been through a node that wrote UN."""
    try:
        known = dictionary_VR(tag)
    except KeyError:
        return written or "UN"
    return known if len(known) == 2 else written or "UN"


def _bytes_of(element: DataElement | RawDataElement, vr: str) -> bytes:
    if isinstance(element, RawDataElement):
        return _in_little_endian(element.value or b"", vr, element.is_little_endian)
    # pydicom decodes two kinds while it reads: empty elements, and the character set's own name.
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return "\\".join(str(value) for value in values).encode("ascii", "replace") if element.value else b""


def _in_little_endian(value: bytes, vr: str, little_endian: bool) -> bytes:
    size = _WORD_BYTES.get(vr)
    if little_endian or size is None or len(value) % size:
        return value
    return np.frombuffer(value, dtype=f">u{size}").astype(f"<u{size}").tobytes()
