"""A received file without its pixels: the header that rules need, and the data set that results copy from."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from os import SEEK_END
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.charset import convert_encodings, python_encoding

from dicom_node.core.errors import InvalidUid, NodeError, ObjectUnreadable
from dicom_node.core.identity import check_received_uid
from dicom_node.core.image import ImageHeader
from dicom_node.dicom.beginning import read_beginning
from dicom_node.dicom.marks import own_mark
from dicom_node.dicom.values import (
    element_value,
    is_stepped_over,
    items,
    number,
    pydicom_quiet,
    text,
    texts,
    whole_number,
)

__all__ = [
    "BoundedReader",
    "element_value",
    "header_from",
    "header_of",
    "is_stepped_over",
    "items",
    "load_source",
    "number",
    "open_part10",
    "pydicom_quiet",
    "read_dataset",
    "read_header",
    "text",
    "texts",
    "whole_number",
]

_LARGEST_ATTRIBUTE = 1 << 20
"""Bytes above which an attribute outside the pixels is stepped over: none that we use is so large."""

_HEADER_BYTES = 64 << 20
"""Of all attributes before the pixels that are not stepped over. Scanners write kilobytes, with raw data
in private attributes some megabytes."""

_HEADER_READS = 60_000
"""Times that bytes are asked for, two or three an element. Real headers take hundreds; without an end,
elements inside elements could be walked through over and over, and a thousand bytes each be remembered."""

_PIXEL_READS = 300_000
"""For the pixels: a few a fragment, and the frames of a cine are fragments."""

_ENCODINGS = {codecs.lookup(name).name for name in python_encoding.values()}
"""Python's names of the encodings that DICOM knows."""

_SOURCES = 64
"""Source images of one object that are looked at."""

_TOO_MUCH = (
    f"the attributes before the pixels are more than {_HEADER_BYTES >> 20} MiB, or too many to be an image's"
)

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
        self.exhausted = False
        self._trouble: OSError | MemoryError | None = None
        self.allow(_HEADER_BYTES, _HEADER_READS)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes; raise ObjectUnreadable if asked for everything.

        pydicom reads a whole file only to inflate the Deflated transfer syntax, which can grow a
        thousandfold: we do not offer it, and refuse it here before it grows.
        """
        if size is None or size < 0:
            raise ObjectUnreadable("the transfer syntax is Deflated, which this node does not take")
        size = max(0, min(size, self.size - self.tell()))
        self._reads_left -= 1
        self._bytes_left -= size
        if self._reads_left < 0 or self._bytes_left < 0:
            self.exhausted = True
            raise ObjectUnreadable(_TOO_MUCH)
        try:
            return super().read(size)
        except (OSError, MemoryError) as error:
            # Remembered, for parsers take it for the end of the file, or put their own errors in its place.
            self._trouble = error
            raise

    def raise_trouble(self, error: Exception | None = None) -> None:
        """Raise the OSError or MemoryError that is this machine's fault and not the file's, if there is one.

        error   what came out of a parser or decoder of this file. An OSError among these says nothing: they
                raise it for damaged bytes, too. Only what reading itself met is the disk's.
        """
        if self._trouble is not None:
            raise self._trouble
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise cause
            cause = cause.__cause__ or cause.__context__

    def allow(self, byte_count: int, reads: int) -> None:
        """Begin a new allowance: so many bytes, in so many pieces."""
        self._bytes_left, self._reads_left = byte_count, reads


@contextmanager
def open_part10(path: Path) -> Iterator[BoundedReader]:
    """Open a received file; raise ObjectUnreadable if there is none, OSError if it cannot be opened now."""
    try:
        file = BoundedReader(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ObjectUnreadable(f"the file cannot be opened ({error.strerror})") from error
    with file:
        yield file


def read_dataset(file: BoundedReader) -> Dataset:
    """Read everything before the pixels, as raw elements; the file then stands at the pixel element.

    Raises ObjectUnreadable if the bytes are not a DICOM file (PS3.10), or more header than any scanner makes;
    OSError or MemoryError, of which the file is not the cause, if this machine cannot read it now.
    """
    file.allow(_HEADER_BYTES, _HEADER_READS)
    try:
        with pydicom_quiet():
            ds = dcmread(file, stop_before_pixels=True, defer_size=_LARGEST_ATTRIBUTE)
    except NodeError:
        raise
    # Boundary: what a parser of bytes from the wire may raise has no end.
    except Exception as error:  # noqa: BLE001
        file.raise_trouble(error)
        # The parser puts errors of its own in the place of ours.
        why = _TOO_MUCH if file.exhausted else f"not a DICOM file, or a broken one ({type(error).__name__})"
        raise ObjectUnreadable(why) from None
    file.raise_trouble()
    # Whoever decodes may read the header once more, and each byte of the pixels a few times.
    file.allow(_HEADER_BYTES + 4 * (file.size - file.tell()), _PIXEL_READS)
    if not ds.file_meta.get("TransferSyntaxUID"):
        raise ObjectUnreadable("the file meta information names no transfer syntax")
    _check_character_sets(ds)
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


def header_from(some: bytes, transfer_syntax_uid: str, *, is_whole: bool) -> ImageHeader | None:
    """What `read_header` reads, from the beginning of a data set in memory; None if the file has to be read.

    some, is_whole  as of `beginning.read_beginning`

    Raises InvalidUid as `read_header` does.
    """
    ds = read_beginning(some, transfer_syntax_uid, is_whole=is_whole)
    return None if ds is None else _header_of(ds, transfer_syntax_uid)


def header_of(ds: Dataset) -> ImageHeader:
    """Take the header out of a data set from `read_dataset`; raises InvalidUid."""
    return _header_of(ds, str(ds.file_meta.TransferSyntaxUID))


def _header_of(ds: Dataset, transfer_syntax_uid: str) -> ImageHeader:
    uids = {keyword: _checked_uid(ds, keyword) for keyword in _UIDS}
    number = whole_number(ds, "InstanceNumber")
    if number is not None and abs(number) >= 1 << 31:  # IS ends there (PS3.5 6.2), and so do databases
        number = None
    return ImageHeader(
        sop_class_uid=uids["SOPClassUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        transfer_syntax_uid=transfer_syntax_uid,
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
        synthetic=text(ds, "SyntheticData") == "YES" and text(ds, "ImageType") == "DERIVED",
        own_mark=own_mark(ds),
        derived_from=_sources(ds),
    )


def _sources(ds: Dataset) -> tuple[str, ...]:
    named = (text(item, "ReferencedSOPInstanceUID") for item in items(ds, "SourceImageSequence")[:_SOURCES])
    return tuple(filter(None, named))


def _checked_uid(ds: Dataset, keyword: str) -> str:
    uid = text(ds, keyword)
    if not uid:
        raise InvalidUid(f"{keyword} is missing")
    return check_received_uid(keyword, uid)


def _check_character_sets(ds: Dataset) -> None:
    """Raise ObjectUnreadable if the object names an encoding that is none of DICOM's (PS3.3 C.12.1.1.2).

    pydicom takes any name that Python knows, even UTF-16 or zlib, in which our own words would not be ASCII.
    A name that nobody knows does no harm: it counts as the default.
    """
    names = list(texts(ds, "SpecificCharacterSet"))
    with pydicom_quiet():
        encodings = convert_encodings(names) if names else []
    if not {codecs.lookup(encoding).name for encoding in encodings} <= _ENCODINGS:
        raise ObjectUnreadable("Specific Character Set names an encoding that DICOM does not have")
