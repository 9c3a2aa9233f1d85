"""A received file without its pixels: the header that rules need, and the data set that results copy from."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from dicom_node.core.errors import InvalidUid, NodeError, ObjectUnreadable
from dicom_node.core.identity import check_received_uid
from dicom_node.core.image import ImageHeader

MANUFACTURER = "Emode project"
MODEL_NAME = "Emode"
RESULT_IMAGE_TYPE = ("DERIVED", "SECONDARY", "SYNTHETIC", "STRAIN_ELASTO")
"""(0008,0008) of every result; values 3 and 4 are ours (PS3.3 C.7.6.1.1.2 leaves them open for SC)."""

_LARGEST_ATTRIBUTE = 1 << 20
"""Bytes above which an attribute outside the pixels is stepped over: none that we use is so large."""

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


class BoundedReader(io.BufferedReader):
    """A file that never gives, nor makes room for, more bytes than it has.

    A length field can claim 4 GB; Python would set that much memory aside before it finds the end.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.path = path
        self.size = self.seek(0, SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes; raise ObjectUnreadable if asked for everything.

        pydicom reads a whole file only to inflate the Deflated transfer syntax, which can grow a
        thousandfold: we do not offer it, and refuse it here before it grows.
        """
        if size is None or size < 0:
            raise ObjectUnreadable("the transfer syntax is Deflated, which this node does not take")
        return super().read(max(0, min(size, self.size - self.tell())))


@contextmanager
def open_part10(path: Path) -> Iterator[BoundedReader]:
    """Open a received file, or raise ObjectUnreadable if it cannot be opened."""
    try:
        file = BoundedReader(path)
    except OSError as error:
        raise ObjectUnreadable(f"the file cannot be opened ({error.strerror})") from error
    with file:
        yield file


@contextmanager
def pydicom_quiet() -> Iterator[None]:
    """Keep pydicom's warnings to itself: odd values are normal here, and its texts quote patient data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_dataset(file: BinaryIO) -> Dataset:
    """Read everything before the pixels, as raw elements; the file then stands at the pixel element.

    Raises ObjectUnreadable if the bytes are not a DICOM file (PS3.10).
    """
    try:
        with pydicom_quiet():
            ds = dcmread(file, stop_before_pixels=True, defer_size=_LARGEST_ATTRIBUTE)
    except NodeError:
        raise
    # Boundary: what a parser of bytes from the wire may raise has no end.
    except Exception as error:  # noqa: BLE001
        raise ObjectUnreadable(f"not a DICOM file, or a broken one ({type(error).__name__})") from None
    if not ds.file_meta.get("TransferSyntaxUID"):
        raise ObjectUnreadable("the file meta information names no transfer syntax")
    return ds


def load_source(path: Path) -> Dataset:
    """Read the data set that a result is derived from, without pixels, every element still raw."""
    with open_part10(path) as file:
        return read_dataset(file)


def read_header(path: Path) -> ImageHeader:
    """Read what rules and bookkeeping need.

    Raises ObjectUnreadable if it is not DICOM, InvalidUid if one of its UIDs is missing or impossible.
    """
    return header_of(load_source(path))


def header_of(ds: Dataset) -> ImageHeader:
    """Take the header out of a data set from `read_dataset`; raises InvalidUid."""
    uids = {keyword: _checked_uid(ds, keyword) for keyword in _UIDS}
    number = whole_number(ds, "InstanceNumber")
    if number is not None and abs(number) >= 1 << 31:  # IS ends there (PS3.5 6.2), and so do databases
        number = None
    return ImageHeader(
        sop_class_uid=uids["SOPClassUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        modality=text(ds, "Modality"),
        body_part=text(ds, "BodyPartExamined"),
        study_description=text(ds, "StudyDescription"),
        series_description=text(ds, "SeriesDescription"),
        image_type=texts(ds, "ImageType"),
        manufacturer=text(ds, "Manufacturer"),
        accession_number=text(ds, "AccessionNumber"),
        instance_number=number,
        rows=max(0, whole_number(ds, "Rows") or 0),
        columns=max(0, whole_number(ds, "Columns") or 0),
        frames=max(1, whole_number(ds, "NumberOfFrames") or 1),
        own_result=is_own_result(ds),
    )


def is_own_result(ds: Dataset) -> bool:
    """Is this a result of this product, made here or by another node?"""
    if texts(ds, "ImageType")[2:4] == RESULT_IMAGE_TYPE[2:]:
        return True
    if text(ds, "SyntheticData") != "YES":
        return False
    makers = [ds, *items(ds, "ContributingEquipmentSequence")]
    return any(
        text(maker, "Manufacturer") == MANUFACTURER or text(maker, "ManufacturerModelName") == MODEL_NAME
        for maker in makers
    )


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
    if as_read is not None:
        ds[tag] = as_read
    return value


def is_stepped_over(ds: Dataset, tag: BaseTag) -> bool:
    """Was the value left in the file because no attribute we use is so large?"""
    element = ds.get_item(tag, keep_deferred=True)
    return isinstance(element, RawDataElement) and element.value is None and element.length > 0


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """The values as stripped strings; empty if absent or unreadable."""
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
    value = element_value(ds, keyword)
    return tuple(value) if isinstance(value, Sequence) else ()


def _checked_uid(ds: Dataset, keyword: str) -> str:
    uid = text(ds, keyword)
    if not uid:
        raise InvalidUid(f"{keyword} is missing")
    return check_received_uid(keyword, uid)
