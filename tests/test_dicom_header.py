"""Headers: what is read, what is refused, and that nothing large is set aside on a claim."""

from __future__ import annotations

import errno
import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.core.errors import InvalidUid, ObjectUnreadable
from dicom_node.dicom.header import load_source, read_header, text
from dicom_objects import INSTANCE, SERIES, STUDY, ULTRASOUND, breast_image, encoded, saved


def test_header_holds_what_rules_need(tmp_path: Path) -> None:
    ds = breast_image(BodyPartExamined="BREAST", StudyDescription="Mamma", SeriesDescription="B-mode")
    header = read_header(saved(ds, tmp_path / "a.dcm"))
    assert (header.study_instance_uid, header.series_instance_uid) == (STUDY, SERIES)
    assert (header.sop_class_uid, header.sop_instance_uid) == (ULTRASOUND, INSTANCE)
    assert (header.body_part, header.study_description, header.series_description) == (
        "BREAST",
        "Mamma",
        "B-mode",
    )
    assert header.image_type == ("ORIGINAL", "PRIMARY", "SMALL PARTS", "0001")
    assert (header.rows, header.columns, header.frames, header.instance_number) == (160, 200, 1, 12)
    assert not header.own_result


def test_absent_attributes_are_empty(tmp_path: Path) -> None:
    ds = breast_image(Modality=None, ImageType=None, InstanceNumber=None, AccessionNumber=None)
    header = read_header(saved(ds, tmp_path / "a.dcm"))
    assert (header.modality, header.image_type, header.instance_number, header.accession_number) == (
        "", (), None, "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyInstanceUID", None),
        ("SeriesInstanceUID", ""),
        ("SOPInstanceUID", "1..2"),
        ("SOPInstanceUID", "../escaped"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_missing_or_impossible_uid_is_refused(tmp_path: Path, keyword: str, value: str | None) -> None:
    ds = breast_image()
    content = encoded(ds)
    if value is None:
        del ds[keyword]
        content = encoded(ds)
    else:
        old = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": INSTANCE}[keyword]
        old_bytes = old.encode() + b"\0" * (len(old) % 2)
        content = content.replace(old_bytes, value.encode().ljust(len(old_bytes), b"\0"))
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(InvalidUid, match=keyword):
        read_header(path)


def test_leading_zeros_of_old_scanners_pass(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(
        encoded(breast_image()).replace(SERIES.encode(), SERIES.replace("1.1.2", "01.2").encode())
    )
    assert read_header(path).series_instance_uid == "1.2.826.0.01.2"


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 128 + b"DICM", b"\0" * 400])
def test_what_is_not_dicom_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises((ObjectUnreadable, InvalidUid)):
        read_header(path)


def test_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ObjectUnreadable, match="cannot be opened"):
        read_header(tmp_path / "absent.dcm")


@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_trouble_of_this_machine_is_not_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """A sender tries again after it, and gives an object up that cannot be understood."""

    class FailingDisk(io.FileIO):
        def readinto(self, buffer: object, /) -> int:
            raise trouble

    def no_more_files(path: Path) -> None:
        raise trouble

    path = saved(breast_image(), tmp_path / "a.dcm")
    for disk in (FailingDisk, no_more_files):
        monkeypatch.setattr(io, "FileIO", disk)
        with pytest.raises(type(trouble)):
            read_header(path)


def test_deflated_is_refused_before_it_inflates(tmp_path: Path) -> None:
    ds = breast_image()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(ObjectUnreadable, match="Deflated"):
        read_header(saved(ds, tmp_path / "a.dcm"))


def test_two_gigabyte_claim_sets_nothing_aside(tmp_path: Path) -> None:
    ds = breast_image()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    content = encoded(ds)
    name = struct.pack("<HHL", 0x0010, 0x0010, 8)
    at = content.index(name)
    path = tmp_path / "a.dcm"
    path.write_bytes(content[:at] + struct.pack("<HHL", 0x0010, 0x0010, 0x7FFFFFFE) + content[at + 8 :])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidUid):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_our_own_results_are_known(tmp_path: Path) -> None:
    maker = Dataset()
    maker.Manufacturer = "Emode project"
    for number, attributes in enumerate(
        (
            {"ImageType": ["DERIVED", "SECONDARY", "SYNTHETIC", "STRAIN_ELASTO"]},
            {"SyntheticData": "YES", "Manufacturer": "Emode project"},
            {"SyntheticData": "YES", "ManufacturerModelName": "Emode"},
            {"SyntheticData": "YES", "ContributingEquipmentSequence": [maker]},
        )
    ):
        assert read_header(saved(breast_image(**attributes), tmp_path / f"{number}.dcm")).own_result


def test_synthetic_data_of_others_is_not_ours(tmp_path: Path) -> None:
    assert not read_header(saved(breast_image(SyntheticData="YES"), tmp_path / "a.dcm")).own_result


def test_reading_a_value_leaves_it_raw(tmp_path: Path) -> None:
    source = load_source(saved(breast_image(), tmp_path / "a.dcm"))
    assert text(source, "PatientName") == "Doe^Jane"
    assert isinstance(source.get_item(0x00100010), RawDataElement)
    assert "PixelData" not in source


def test_odd_values_are_read_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    ds = breast_image(SpecificCharacterSet="ISO_IR 100")
    ds.NumberOfFrames = "7"
    content = encoded(ds)
    path.write_bytes(content.replace(b"IS\x02\x007 ", b"IS\x02\x00x ").replace(b"ISO_IR 100", b"ISO_IR 9!9"))
    assert read_header(path).frames == 1
