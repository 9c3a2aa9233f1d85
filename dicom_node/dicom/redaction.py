"""A peer's own words, without the patient that they may quote."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom.datadict import keyword_for_tag
from pydicom.tag import BaseTag

from dicom_node.core.errors import NodeError
from dicom_node.dicom.header import load_source
from dicom_node.dicom.values import texts

_HIDDEN = "[...]"
_SHORTEST = 3
"""Characters. A shorter part of a name is in too many other words to be hidden, and says too little."""

_PEOPLE = (
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "NameOfPhysiciansReadingStudy",
)


def redacted(words: str, path: Path) -> str:
    """What a peer wrote about the object in this file, with every part of group 0010 and of names hidden.

    An archive that refuses an object likes to say whose it is. Empty if the file cannot be read any more.
    """
    if not words:
        return ""
    try:
        ds = load_source(path)
    except (NodeError, OSError, MemoryError):
        return ""
    keywords = [keyword_for_tag(tag) for tag in map(BaseTag, ds.keys()) if tag.group == 0x0010]
    parts: set[str] = set()
    for keyword in (*keywords, *_PEOPLE):
        for value in texts(ds, keyword) if keyword else ():
            parts |= {value, *re.split(r"[\s^=,;:/\"'()]+", value), *_dates(value)}
    known = sorted((part for part in parts if len(part) >= _SHORTEST), key=len, reverse=True)
    return re.sub("|".join(map(re.escape, known)), _HIDDEN, words, flags=re.IGNORECASE) if known else words


def _dates(value: str) -> tuple[str, ...]:
    """A date as people write it."""
    if not re.fullmatch(r"\d{8}", value):
        return ()
    year, month, day = value[:4], value[4:6], value[6:]
    return tuple(
        mark.join(order)
        for mark in "-./"
        for order in ((year, month, day), (day, month, year), (month, day, year))
    )
