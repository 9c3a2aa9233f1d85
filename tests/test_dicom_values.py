"""Reading a value never changes what stands in the file, and never raises."""

from io import BytesIO

import pytest
from pydicom import dcmread

from dicom_node.dicom.values import element_value, items, pydicom_quiet

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
