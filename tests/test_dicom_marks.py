"""The loop guard: a result is known by any mark that is left, and a measured image never has one."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from dicom_node.dicom import burned_in
from dicom_node.dicom.burned_in import bears_our_title
from dicom_node.dicom.header import load_source, read_header
from dicom_node.dicom.label import MIN_CAP
from dicom_node.dicom.marks import COMMENT, own_mark
from dicom_node.dicom.pixels import luma
from dicom_node.dicom.reading import SourceImage, read_image
from dicom_node.dicom.skip import Skip, SkipCode
from dicom_objects import Frame, breast_image, saved, speckle, ultrasound
from test_dicom_results import result_of

US = "1.2.840.10008.5.1.4.1.1.6.1"


def item(**attributes: object) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


ALONE: dict[str, dict[str, object]] = {
    "Image Type": {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC", "STRAIN_ELASTO"]},
    "equipment": {"Manufacturer": "Emode project"},
    "model of synthetic data": {"SyntheticData": "YES", "ManufacturerModelName": "Emode"},
    "Series Description": {"SeriesDescription": "AI synthetic strain elastography"},
    "Contributing Equipment": {"ContributingEquipmentSequence": [item(Manufacturer="Emode project")]},
    "Secondary Capture Device": {"SecondaryCaptureDeviceManufacturer": "Emode project"},
    "Derivation Code": {"DerivationCodeSequence": [item(CodeValue="X", CodingSchemeDesignator="99EMODE")]},
    "coding scheme": {"CodingSchemeIdentificationSequence": [item(CodingSchemeDesignator="99EMODE")]},
    "Derivation Description": {"DerivationDescription": "Synthetic strain elastogram predicted from B-mode"},
    "algorithm": {"DerivationAlgorithmSequence": [item(AlgorithmParameters="weights sha256 00ff")]},
    "Image Comments": {"ImageComments": COMMENT},
}


@pytest.mark.parametrize("mark", ALONE)
def test_each_mark_suffices_alone(tmp_path: Path, mark: str) -> None:
    header = read_header(saved(breast_image(**ALONE[mark]), tmp_path / "a.dcm"))
    assert (header.own_mark, header.own_result) == (mark, True)


def test_the_private_creator_suffices_wherever_it_was_moved(tmp_path: Path) -> None:
    for number in (0x10, 0x1F):
        ds = breast_image()
        ds.add_new(0x00990000 | number, "LO", "EMODE PROVENANCE 1")
        assert read_header(saved(ds, tmp_path / "a.dcm")).own_mark == "private attributes"


# -- what archives and tools do to a result ---------------------------------------------------------


def coerced(ds: Dataset) -> None:
    ds.Manufacturer, ds.ManufacturerModelName, ds.InstitutionName = "ACME PACS", "Archive 7", "Elsewhere"
    ds.StationName, ds.PatientID, ds.AccessionNumber = "GW1", "COERCED", "7"


def with_new_uids(ds: Dataset) -> None:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(ds, keyword, generate_uid(entropy_srcs=[keyword]))
    for keyword in ("SourceImageSequence", "ReferencedSeriesSequence"):
        delattr(ds, keyword)


def without_private(ds: Dataset) -> None:
    ds.remove_private_tags()


def as_ultrasound(ds: Dataset) -> None:
    ds.SOPClassUID, ds.ImageType = US, ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
    for keyword in ("ConversionType", "DateOfSecondaryCapture", "TimeOfSecondaryCapture"):
        delattr(ds, keyword)


def anonymised(ds: Dataset) -> None:
    """PS3.15 Table E.1-1 without options: descriptions, comments, devices and private attributes go."""
    for keyword in (
        *("SeriesDescription", "ImageComments", "DerivationDescription", "DeviceSerialNumber", "StationName"),
        *("ContributingEquipmentSequence", "RequestAttributesSequence", "SecondaryCaptureDeviceID"),
        *("InstitutionName", "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"),
    ):
        if keyword in ds:
            delattr(ds, keyword)
    without_private(ds)
    with_new_uids(ds)


def without_derivation(ds: Dataset) -> None:
    for keyword in list(ds.dir("Derivation")):
        delattr(ds, keyword)
    del ds.CodingSchemeIdentificationSequence


def everything(ds: Dataset) -> None:
    """Only what an Ultrasound Image must have is left, besides the colours."""
    coerced(ds)
    anonymised(ds)
    without_derivation(ds)
    as_ultrasound(ds)
    for keyword in ("SyntheticData", "ContentQualification", "SoftwareVersions"):
        delattr(ds, keyword)
    for keyword in ds.dir("SecondaryCapture"):
        delattr(ds, keyword)


@pytest.mark.parametrize(
    "changes",
    [
        (coerced,),
        (with_new_uids,),
        (without_private,),
        (as_ultrasound,),
        (anonymised,),
        (without_derivation,),
        (coerced, with_new_uids, without_private),
        (anonymised, as_ultrasound),
        (coerced, anonymised, as_ultrasound),
        (coerced, anonymised, as_ultrasound, without_derivation),
    ],
    ids=lambda changes: "+".join(change.__name__ for change in changes),
)
@pytest.mark.parametrize("syntax", ["as it is", RLELossless, JPEG2000Lossless])
def test_a_result_is_known_after_what_others_did_to_it(
    tmp_path: Path, changes: tuple[Callable[[Dataset], None], ...], syntax: str
) -> None:
    ds = result_of(breast_image(), tmp_path)
    for change in changes:
        change(ds)
    if syntax != "as it is":
        ds.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    path = saved(ds, tmp_path / "changed.dcm")  # type: ignore[arg-type]
    skip = read_image(path)
    assert isinstance(skip, Skip)
    assert skip.code is SkipCode.OWN_RESULT


def stripped(folder: Path, picture: Frame) -> Path:
    """An Ultrasound Image with a result's picture and nothing else of it."""
    return saved(ultrasound(picture), folder / "stripped.dcm")


def test_without_any_attribute_of_ours_the_colours_still_keep_it_out(tmp_path: Path) -> None:
    ds = result_of(breast_image(), tmp_path)
    everything(ds)
    path = saved(ds, tmp_path / "changed.dcm")  # type: ignore[arg-type]
    assert own_mark(load_source(path)) == ""
    skip = read_image(path)
    assert isinstance(skip, Skip)
    assert skip.code in (SkipCode.ELASTOGRAPHY, SkipCode.COLOUR_OVERLAY)


def jpeg(picture: Frame) -> Frame:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def lifted(picture: Frame) -> Frame:
    """Black comes out as grey, as a screen in a bright room is captured."""
    return picture // 2 + 60


EXPORTS: dict[str, Callable[[Frame], Frame]] = {
    "plain": lambda grey: grey,
    "jpeg": jpeg,
    "dim": lambda grey: grey // 2,
    "lifted": lifted,
    "lifted-jpeg": lambda grey: jpeg(lifted(grey)),
    "gamma": lambda grey: (255 * (grey / 255.0) ** 0.6).astype(np.uint8),
}


@pytest.mark.parametrize("side", [120, 300, 620])
@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS.keys())
def test_a_grey_export_is_known_by_its_title(
    tmp_path: Path, side: int, export: Callable[[Frame], Frame]
) -> None:
    picture = luma(result_of(breast_image(side), tmp_path).pixel_array)
    skip = read_image(stripped(tmp_path, export(picture)))
    assert isinstance(skip, Skip)
    assert skip.code is SkipCode.OWN_RESULT
    assert "pixels" in skip.facts


# -- and never a measured image -----------------------------------------------------------------------


def test_a_scanner_with_text_on_its_screen_is_not_ours(tmp_path: Path) -> None:
    picture = np.zeros((480, 640), np.uint8)
    cv2.putText(picture, "SYNTHETIC APERTURE  AI ASSIST", (8, 20), 0, 0.5, 255, 1)
    picture[60:420, 90:510] = speckle(360, 420)
    assert isinstance(read_image(saved(ultrasound(picture), tmp_path / "a.dcm")), SourceImage)
    assert not bears_our_title(np.zeros((300, 300), np.uint8))
    assert not bears_our_title(np.full((300, 300), 255, np.uint8))


def test_the_quick_look_for_the_title_misses_none_that_the_full_search_finds() -> None:
    """At each size and place, on lifted and bent greys, after JPEG: the half-size search only saves time."""
    rng, compared = np.random.default_rng(5), 0
    for _ in range(150):
        cap = int(rng.integers(MIN_CAP, 16))
        words = burned_in._title(cap)
        picture = speckle(360, 520).astype(np.float32) * rng.uniform(0.2, 1.0)
        y, x = int(rng.integers(10, 60)), int(rng.integers(10, 500 - words.shape[1]))
        rows, columns = slice(y, y + words.shape[0]), slice(x, x + words.shape[1])
        picture[y - 6 : rows.stop + 6, x - 6 : columns.stop + 6] = 0
        picture[rows, columns] = words
        lift = rng.choice([0, 80, 160])
        picture = lift + picture * rng.uniform(0.3, 1.0) * (255 - lift) / 255
        picture = 255 * (picture / 255) ** rng.uniform(0.5, 1.8)
        _, jpeg = cv2.imencode(".jpg", picture.round(), [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))])
        shown = np.ascontiguousarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)[:180])
        if burned_in._shows(shown, cap):
            compared += 1
            assert burned_in._may_show(burned_in._half(shown), cap), (cap, y, x, lift)
    assert compared > 100


def test_synthetic_data_of_others_is_left_alone_by_another_name(tmp_path: Path) -> None:
    derived = breast_image(SyntheticData="YES", ImageType=["DERIVED", "SECONDARY"])
    path = saved(derived, tmp_path / "a.dcm")
    assert not read_header(path).own_result
    skip = read_image(path)
    assert isinstance(skip, Skip)
    assert skip.code is SkipCode.SYNTHETIC


def test_an_image_of_a_simulator_is_an_image(tmp_path: Path) -> None:
    path = saved(breast_image(SyntheticData="YES"), tmp_path / "a.dcm")
    assert isinstance(read_image(path), SourceImage)


@pytest.mark.real_data
def test_no_real_image_is_taken_for_ours(real_data: Path) -> None:
    files = sorted((real_data / "us-dicom").glob("*.dcm"))
    assert len(files) >= 20
    for path in files:
        header = read_header(path)
        assert (path.name, header.own_mark, header.synthetic) == (path.name, "", False)
    pictures = sorted((real_data / "busi").glob("*/*.*"))[:: 1 if os.environ.get("EMODE_ALL_IMAGES") else 8]
    for path in pictures:
        assert not bears_our_title(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)), path.name
