"""Headers from bytes in memory: what pydicom would read from the file, or nothing at all."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.core.errors import NodeError
from dicom_node.core.image import ImageHeader
from dicom_node.dicom.beginning import read_beginning
from dicom_node.dicom.header import header_from, read_header
from dicom_node.dicom.part10 import file_head
from dicom_objects import breast_image, encoded
from fuzz.datasets import MUTATIONS
from fuzz.seeds import made
from test_dicom_marks import ALONE

LITTLE = pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"]
)
HEAD = 1 << 16

Outcome = ImageHeader | tuple[type[Exception], str] | None


def outcome(read: Callable[[], ImageHeader | None]) -> Outcome:
    try:
        return read()
    except NodeError as error:
        return type(error), str(error)


def both_ways(data: bytes, syntax: str, path: Path) -> tuple[Outcome, Outcome]:
    """From memory, and from the file as the receiver writes it."""
    path.write_bytes(file_head("1.2", "1.3", syntax) + data)
    early = outcome(lambda: header_from(data[:HEAD], syntax, is_whole=len(data) < HEAD))
    return early, outcome(lambda: read_header(path))


def data_set(ds: FileDataset, syntax: str) -> bytes:
    ds.file_meta.TransferSyntaxUID = syntax
    content = encoded(ds)
    return content[144 + int.from_bytes(content[140:144], "little") :]


@LITTLE
@pytest.mark.parametrize("mark", ["", *ALONE])
def test_every_mark_of_ours_is_seen_in_memory_too(tmp_path: Path, syntax: str, mark: str) -> None:
    early, late = both_ways(data_set(breast_image(**ALONE.get(mark, {})), syntax), syntax, tmp_path / "a.dcm")
    assert isinstance(early, ImageHeader)
    assert (early.own_mark, early) == (mark, late)


@LITTLE
def test_everything_that_a_header_has(tmp_path: Path, syntax: str) -> None:
    source = Dataset()
    source.ReferencedSOPInstanceUID = "1.2.3"
    ds = breast_image(
        SpecificCharacterSet="ISO_IR 100",
        StudyDescription="Mamma für links",
        SeriesDescription=["a", "b"],
        BodyPartExamined="BREAST",
        SourceImageSequence=[source],
        SyntheticData="YES",
    )
    early, late = both_ways(data_set(ds, syntax), syntax, tmp_path / "a.dcm")
    assert early == late
    assert isinstance(early, ImageHeader)
    assert (early.study_description, early.derived_from, early.rows) == ("Mamma für links", ("1.2.3",), 160)


@LITTLE
def test_sequences_without_a_length_are_walked_through(tmp_path: Path, syntax: str) -> None:
    """As most scanners write them; in items with a length and in items without."""
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "X", "99EMODE", "x"
    inner.is_undefined_length_sequence_item = True
    outer.AnatomicRegionSequence = [inner, Dataset()]
    outer["AnatomicRegionSequence"].is_undefined_length = True
    ds = breast_image(DerivationCodeSequence=[inner, inner], SourceImageSequence=[outer])
    for keyword in ("DerivationCodeSequence", "SourceImageSequence", "SequenceOfUltrasoundRegions"):
        ds[keyword].is_undefined_length = True
    early, late = both_ways(data_set(ds, syntax), syntax, tmp_path / "a.dcm")
    assert isinstance(early, ImageHeader)
    assert (early.own_mark, early) == ("Derivation Code", late)


def test_only_attributes_before_the_pixels_are_there() -> None:
    data = data_set(breast_image(), ExplicitVRLittleEndian)
    ds = read_beginning(data[:HEAD], ExplicitVRLittleEndian, is_whole=True)
    assert ds is not None
    assert "PixelData" not in ds
    assert "Rows" in ds


def test_a_data_set_may_end_before_any_pixels_if_that_is_all() -> None:
    data = data_set(breast_image(), ExplicitVRLittleEndian)
    data = data[: data.index(struct.pack("<HH", 0x7FE0, 0x0010))]
    assert header_from(data, ExplicitVRLittleEndian, is_whole=True) is not None
    assert header_from(data, ExplicitVRLittleEndian, is_whole=False) is None


SEQUENCE = struct.pack("<HH2sHL", 0x0009, 0x1010, b"SQ", 0, 0xFFFFFFFF)
END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)


@pytest.mark.parametrize(
    "odd",
    [
        struct.pack("<HH2sH", 0x0009, 0x1010, b"zz", 0),  # no VR
        struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", 0),  # of the file meta information
        struct.pack("<HH2sHL", 0x0009, 0x1010, b"OB", 0, 0xFFFFFFFF),  # fragments that are no pixels
        struct.pack("<HH2sHL", 0x0009, 0x1010, b"UN", 0, 0x7FFFFFFF),  # beyond the end
        END,
        SEQUENCE + ITEM + ITEM_END,  # no end
        SEQUENCE + struct.pack("<HHL", 0xFFFE, 0xE000, 7) + b"\x09\0\1\0LO\0" + END,  # half an element
        (SEQUENCE + ITEM) * 20 + (ITEM_END + END) * 20,
        struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", 8) + b"zlib\0\0\0\0",
    ],
)
def test_what_is_not_of_the_ordinary_form_is_left_to_pydicom(odd: bytes) -> None:
    data = data_set(breast_image(), ExplicitVRLittleEndian)
    at = data.index(struct.pack("<HH", 0x0010, 0x0010))
    assert header_from(data, ExplicitVRLittleEndian, is_whole=True) is not None
    assert header_from(data[:at] + odd + data[at:], ExplicitVRLittleEndian, is_whole=True) is None


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.2", DeflatedExplicitVRLittleEndian])
def test_other_encodings_are_left_to_pydicom(syntax: str) -> None:
    data = data_set(breast_image(), ExplicitVRLittleEndian)
    assert header_from(data, syntax, is_whole=True) is None


DAMAGE = (
    *("bit flips", "odd values", "wrong vr", "wrong length", "overwritten", "truncated", "shuffled"),
    *("nested sequences", "character sets", "group lengths", "several"),
)


def test_damaged_data_sets_are_read_as_pydicom_reads_them_or_left_to_it(tmp_path: Path) -> None:
    seeds, answered = list(made()), 0
    for name in DAMAGE:
        for number in range(40):
            rng = random.Random(f"{name} {number}")
            seed = rng.choice(seeds)
            content = MUTATIONS[name](rng, seed)
            assert isinstance(content, bytes)
            early, late = both_ways(content[seed.dataset_at :], seed.syntax, tmp_path / "a.dcm")
            if early is not None:
                answered += 1
                assert early == late, (name, number)
    assert answered > 150
