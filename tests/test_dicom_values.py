"""Reading a value never changes what stands in the file, and never raises."""

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.charset import python_encoding

from dicom_node.dicom.values import element_value, items, pydicom_quiet, texts

ONE = b"\x28\x00\x02\x00US\x02\x00\x01\x00"
# One byte where a number has two.
BROKEN = b"\x28\x00\x03\x01US\x01\x00\x00"
NO_ITEMS = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\xdd\xe0\0\0\0\0"


def read(elements):
    with pydicom_quiet():
        return dcmread(BytesIO(elements), force=True)


@pytest.mark.parametrize(("keyword", "value"), [("SamplesPerPixel", 1), ("PixelRepresentation", None)])
def test_reading_leaves_the_raw_element(keyword, value):
    ds = read(NO_ITEMS + ONE + BROKEN)
    raw = ds.get_item(keyword)
    assert element_value(ds, keyword) == value
    assert ds.get_item(keyword) is raw


def test_a_sequence_can_be_read_beside_a_broken_pixel_representation():
    """pydicom converts Pixel Representation whenever a sequence is put into its place."""
    assert items(read(NO_ITEMS + ONE + BROKEN), "ReferencedImageSequence") == ()


def text_element(vr, value):
    value += b" " * (len(value) % 2)
    return b"\x08\x00\x30\x10" + vr + (len(value)).to_bytes(2, "little") + value


@pytest.mark.parametrize("encoding", sorted(set(python_encoding.values())))
def test_printable_ascii_is_the_same_in_every_character_set(encoding):
    """So it is read as it stands, whatever the object says of its text."""
    printable = bytes(range(0x20, 0x7F))
    assert printable.decode(encoding) == printable.decode("ascii")


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        (b"LO", b"US BREAST LEFT"),
        (b"LO", b" a \\b\\ "),
        (b"SH", b"x\0"),
        (b"LT", b"one\\two "),
        (b"LT", b"line\r\nline"),
        (b"LO", b"M\xfcnchen"),
        (b"ST", b"\x1b(B"),
        (b"LO", b""),
    ],
)
def test_text_is_what_the_parser_makes_of_it(vr, value):
    ds = read(text_element(vr, value))
    read_by_us = texts(ds, "StudyDescription")
    with pydicom_quiet():
        by_pydicom = ds["StudyDescription"].value
    parts = [by_pydicom] if isinstance(by_pydicom, str) else list(by_pydicom)
    stripped = tuple(str(part).strip(" \0") for part in parts)
    assert read_by_us == (stripped if any(stripped) else ())
