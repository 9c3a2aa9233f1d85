"""A fixed part of `make fuzz`, and one test for each thing that it found."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from dicom_node.core.errors import NodeError, ObjectUnreadable
from dicom_node.dicom.header import read_header
from dicom_node.dicom.reading import SourceImage, read_image
from dicom_objects import breast_image, encoded, saved
from fuzz import datasets, wire
from fuzz.report import Report
from test_dicom_results import results_of

ROOM = 24 << 20


@pytest.mark.slow
def test_hostile_data_sets_end_in_a_result_a_coded_skip_or_a_coded_refusal() -> None:
    report = Report()
    datasets.run(180, 4, report, with_real=False)
    assert report.cases == 180
    assert not report.findings, report.table()


@pytest.mark.slow
def test_a_node_survives_hostile_data_sets_and_serves_the_next_image() -> None:
    report = Report()
    wire.run(20, 5, report)
    assert report.cases == 21
    assert not report.findings, report.table()


def with_private(element: bytes) -> bytes:
    """A sound file with this element before its pixels."""
    content = encoded(breast_image())
    at = content.index(struct.pack("<HH", 0x0010, 0x0010))
    return content[:at] + element + content[at:]


def undefined(group: int, element: int, vr: bytes) -> bytes:
    return struct.pack("<HH2sHL", group, element, vr, 0, 0xFFFFFFFF)


ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
END = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)


def test_gigabytes_inside_a_sequence_are_not_read(tmp_path: Path) -> None:
    """pydicom steps over large values, but not inside sequences of undefined length."""
    size = 1 << 30
    large = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, size)
    head = with_private(undefined(0x0009, 0x1000, b"SQ") + ITEM + large + b"<HOLE>" + END)
    before, after = head.split(b"<HOLE>")
    path = tmp_path / "a.dcm"
    with path.open("wb") as file:
        file.write(before)
        file.seek(size, io.SEEK_CUR)
        file.write(after)
    tracemalloc.start()
    try:
        with pytest.raises(ObjectUnreadable, match="more than 64 MiB"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "part",
    [
        struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0),
        undefined(0x0009, 0x1001, b"SQ") + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0),
    ],
)
def test_elements_without_end_are_not_remembered(tmp_path: Path, part: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(with_private(part * 300_000))
    with pytest.raises(ObjectUnreadable, match="too many"):
        read_header(path)


def test_sequences_in_sequences_are_refused_before_they_are_copied(tmp_path: Path) -> None:
    def nested(depth: int) -> Path:
        value = Dataset()
        value.PatientID = "deep"
        for _ in range(depth):
            outer = Dataset()
            outer.OtherPatientIDsSequence = [value]
            value = outer
        ds = breast_image()
        ds.OtherPatientIDsSequence = [value]
        return saved(ds, tmp_path / f"{depth}.dcm")

    assert len(results_of(nested(10))) == 1
    deep = nested(40)
    assert isinstance(read_image(deep), SourceImage)
    with pytest.raises(ObjectUnreadable, match="nested more than 16 deep"):
        results_of(deep)


@pytest.mark.parametrize("name", ["zlib_codec", "utf-16", "idna", "rot13", "undefined"])
def test_encodings_of_python_are_none_of_dicom(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.dcm"
    content = encoded(breast_image(SpecificCharacterSet="ISO_IR 192"))
    path.write_bytes(content.replace(b"ISO_IR 192", name.encode().ljust(10)))
    with pytest.raises(ObjectUnreadable, match="encoding that DICOM does not have"):
        read_header(path)


def test_a_megabyte_of_numbers_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    value = b"1\\" * (1 << 18)
    path.write_bytes(with_private(struct.pack("<HH2sHL", 0x0008, 0x0008, b"UC", 0, len(value)) + value))
    header = read_header(path)
    assert header.image_type in ((), ("ORIGINAL", "PRIMARY", "SMALL PARTS", "0001"))


TAGS = st.sampled_from([0x00080008, 0x00080016, 0x0020000D, 0x00100010, 0x00186011, 0x00280010, 0x00291010])
VRS = st.sampled_from([b"SQ", b"UN", b"OB", b"LO", b"UI", b"US", b"IS", b"DS", b"PN", b"CS", b"zz"])


@st.composite
def elements(draw: st.DrawFn, depth: int = 0) -> bytes:
    """An element as a hostile writer might nest it: the length may be a lie, the end may be missing."""
    tag, vr = draw(TAGS), draw(VRS)
    value = draw(st.binary(max_size=24))
    if depth < 4 and draw(st.booleans()):
        inside = b"".join(draw(st.lists(elements(depth=depth + 1), max_size=3)))
        value = draw(st.sampled_from([ITEM, struct.pack("<HHL", 0xFFFE, 0xE000, len(inside))])) + inside
        value += END if draw(st.booleans()) else b""
    length = draw(st.sampled_from([len(value), len(value), 0xFFFFFFFF, 0, len(value) + 1, 0x7FFFFFFF]))
    name = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr in (b"SQ", b"UN", b"OB"):
        return name + vr + b"\0\0" + struct.pack("<L", length) + value
    return name + vr + struct.pack("<H", length & 0xFFFF) + value


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(parts=st.lists(elements(), min_size=1, max_size=4))
def test_any_tree_of_elements_is_a_header_or_a_refusal(tmp_path: Path, parts: list[bytes]) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(with_private(b"".join(parts)))
    said = ""
    try:
        header = read_header(path)
    except NodeError as error:
        said = str(error)
    else:
        assert header.sop_class_uid
    assert "Doe" not in said
    assert "PID-77" not in said
