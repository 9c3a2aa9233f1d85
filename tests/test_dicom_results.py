"""Results: what they promise, in bytes, to two validators, and to the next archive."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, FileDataset, dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.core.errors import ResultInvalid
from dicom_node.core.identity import IMPLEMENTATION_CLASS_UID, is_uid
from dicom_node.dicom.header import load_source, read_header
from dicom_node.dicom.label import LabelSettings, compose
from dicom_node.dicom.reading import SourceImage, read_image
from dicom_node.dicom.results import (
    BundleFacts,
    Equipment,
    ResultSettings,
    build_result,
    check_result,
    ensure_valid_result,
    result_identity,
    settings_digest,
    write_result,
)
from dicom_objects import ULTRASOUND_CINE, breast_image, encoded, region, saved, speckle, ultrasound
from peers.validators import dcentvfy, dciodvfy

CREATED = datetime(2026, 3, 4, 5, 6, 7, 891, tzinfo=UTC)
BUNDLE = BundleFacts("breast-sim", "0.1.0", "3f" * 32, "jet-1", trained_on_simulation=True)
EQUIPMENT = Equipment(device_serial="NODE-1", software_version="emode 0.1.0")
SETTINGS = ResultSettings(body_part_default="BREAST")
TABLE = np.stack([np.arange(256), np.full(256, 40), np.arange(255, -1, -1)], axis=-1).astype(np.uint8)


def results_of(path: Path, settings: ResultSettings = SETTINGS, created: datetime = CREATED) -> list[Dataset]:
    """Every result of a file, with a picture made by a colour map instead of a network."""
    image = read_image(path)
    assert isinstance(image, SourceImage), image
    source = load_source(path)
    made = []
    for pane in image.panes:
        label = LabelSettings()
        picture = compose(pane.grey, TABLE[pane.grey], TABLE, label, "breast-sim 0.1.0")
        digest = settings_digest(label, settings)
        identity = result_identity(image.header, pane, image.frame_index, BUNDLE, digest)
        args = (source, image, pane, picture, identity, BUNDLE, EQUIPMENT, settings, created)
        made.append(build_result(*args))
        ensure_valid_result(made[-1], source)
    return made


def result_of(ds: FileDataset, folder: Path, **settings: object) -> Dataset:
    """The one result of a data set, written and read back."""
    path = saved(ds, folder / "source.dcm")
    (built,) = results_of(path, replace(SETTINGS, **settings))
    target = folder / "result.dcm"
    write_result(built, target)
    return dcmread(target)


# -- attributes ----------------------------------------------------------------------------------


def test_it_says_in_every_place_that_it_is_synthetic(tmp_path: Path) -> None:
    ds = result_of(breast_image(), tmp_path)
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "SYNTHETIC", "STRAIN_ELASTO"]
    assert (ds.SyntheticData, ds.ContentQualification, ds.ConversionType) == ("YES", "RESEARCH", "SYN")
    assert ds.SeriesDescription.startswith("AI SYNTHETIC")
    assert str(ds.ImageComments).startswith("AI SYNTHETIC")
    assert "simulated" in ds.DerivationDescription
    assert (ds.Modality, ds.PhotometricInterpretation) == ("US", "RGB")
    assert (ds.SeriesNumber, ds.InstanceNumber) == (9003, 12)
    assert read_header(tmp_path / "result.dcm").own_result


def test_it_names_source_scanner_node_and_weights(tmp_path: Path) -> None:
    source = breast_image()
    ds = result_of(source, tmp_path)
    (item,) = ds.SourceImageSequence
    assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert "ReferencedFrameNumber" not in item
    assert item.SpatialLocationsPreserved == "NO"
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    scanner, ours = ds.ContributingEquipmentSequence
    assert (scanner.Manufacturer, scanner.PurposeOfReferenceCodeSequence[0].CodeValue) == (
        "Scanner Works",
        "109101",
    )
    assert (ours.Manufacturer, ours.PurposeOfReferenceCodeSequence[0].CodeValue) == (
        "Emode project",
        "109100",
    )
    assert ours.ContributionDateTime == "20260304050607.000891+0000"
    assert list(ds.SoftwareVersions) == ["emode 0.1.0", "breast-sim 0.1.0", "weights sha256 3f3f3f3f3f3f3f3f"]
    assert ds.private_block(0x0099, "EMODE PROVENANCE 1")[0x01].value == BUNDLE.weights_sha256
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"


def test_pixels_and_spacing_are_those_of_the_picture(tmp_path: Path) -> None:
    ds = result_of(breast_image(80), tmp_path)
    pixels = ds.pixel_array
    assert pixels.shape == (ds.Rows, ds.Columns, 3)
    # 80 x 120 pixels are enlarged four times; the region says 0.2 mm by 0.1 mm.
    assert [float(value) for value in ds.PixelSpacing] == pytest.approx([0.05, 0.025])
    assert "PixelSpacingCalibrationType" not in ds


def test_uncalibrated_source_gives_no_spacing(tmp_path: Path) -> None:
    assert "PixelSpacing" not in result_of(ultrasound(speckle(160, 160)), tmp_path)


def test_times_follow_the_zone_of_the_source(tmp_path: Path) -> None:
    ds = result_of(breast_image(TimezoneOffsetFromUTC="+0530"), tmp_path)
    assert (ds.ContentDate, ds.ContentTime, ds.TimezoneOffsetFromUTC) == (
        "20260304",
        "103607.000891",
        "+0530",
    )
    without = result_of(breast_image(), tmp_path)
    assert (without.ContentTime, "TimezoneOffsetFromUTC" in without) == ("050607.000891", False)


def test_naive_time_is_a_programming_error(tmp_path: Path) -> None:
    path = saved(breast_image(), tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="aware"):
        results_of(path, created=datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("given", "image_laterality", "laterality"),
    [
        ({"ImageLaterality": "L", "Laterality": "R"}, "L", None),
        ({"Laterality": "R"}, None, "R"),
        ({"Laterality": "LEFT"}, None, ""),
        ({}, None, ""),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_side(tmp_path: Path, given: dict[str, str], image_laterality: str, laterality: str) -> None:
    ds = result_of(breast_image(**given), tmp_path)
    assert ds.get("ImageLaterality") == image_laterality
    assert ds.get("Laterality") == laterality


def test_body_part_is_the_sources_else_the_routes(tmp_path: Path) -> None:
    assert result_of(breast_image(BodyPartExamined="AXILLA"), tmp_path).BodyPartExamined == "AXILLA"
    ds = result_of(breast_image(), tmp_path)
    assert (ds.BodyPartExamined, ds.AnatomicRegionSequence[0].CodeMeaning) == ("BREAST", "Breast")
    assert "BodyPartExamined" not in result_of(breast_image(), tmp_path, body_part_default="")


def test_lossy_once_is_lossy_for_ever(tmp_path: Path) -> None:
    history = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": ["12.5", "3"],
        "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
    }
    ds = result_of(breast_image(**history), tmp_path)
    assert ds.LossyImageCompression == "01"
    assert [float(v) for v in ds.LossyImageCompressionRatio] == [12.5, 3.0]
    assert list(ds.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]
    assert "LossyImageCompression" not in result_of(breast_image(), tmp_path)
    assert result_of(breast_image(LossyImageCompression="00"), tmp_path).LossyImageCompression == "00"


@pytest.mark.parametrize(
    ("by_region", "said", "policy", "expected"),
    [
        (True, "YES", "from-region", "NO"),
        (True, None, "yes", "YES"),
        (False, "NO", "from-region", "NO"),
        (False, "YES", "from-region", "YES"),
        (False, None, "from-region", "YES"),
    ],
)
def test_burned_in_annotation(tmp_path: Path, by_region: bool, said: str, policy: str, expected: str) -> None:
    frame = speckle(160, 200)
    regions = (region(0, 0, 199, 159),) if by_region else ()
    ds = result_of(
        ultrasound(frame, regions=regions, BurnedInAnnotation=said), tmp_path, burned_in_policy=policy
    )
    assert ds.BurnedInAnnotation == expected


def test_cine_names_the_frame(tmp_path: Path) -> None:
    stack = np.stack([speckle(128, 128, seed) for seed in range(5)])
    ds = ultrasound(stack, NumberOfFrames=5, SOPClassUID=ULTRASOUND_CINE, regions=(region(0, 0, 127, 127),))
    assert result_of(ds, tmp_path).SourceImageSequence[0].ReferencedFrameNumber == 3


def test_two_panes_are_two_instances_of_one_series(tmp_path: Path) -> None:
    frame = np.hstack([speckle(200, 200, 1), speckle(200, 200, 2)])
    ds = ultrasound(frame, regions=(region(0, 0, 199, 199), region(200, 0, 399, 199)))
    left, right = results_of(saved(ds, tmp_path / "a.dcm"))
    assert left.SeriesInstanceUID == right.SeriesInstanceUID
    assert left.SOPInstanceUID != right.SOPInstanceUID
    assert (left.InstanceNumber, right.InstanceNumber) == (12, 1012)


def test_order_link_and_trial_travel_along(tmp_path: Path) -> None:
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP1", "SPS1"
    trial = {"ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "P", "ClinicalTrialSubjectID": "7"}
    ds = result_of(breast_image(RequestAttributesSequence=[request], **trial), tmp_path)
    assert ds.RequestAttributesSequence[0].RequestedProcedureID == "RP1"
    assert ds.ClinicalTrialSubjectID == "7"
    del trial["ClinicalTrialSponsorName"]
    assert "ClinicalTrialSubjectID" not in result_of(breast_image(**trial), tmp_path)


# -- bytes ---------------------------------------------------------------------------------------

CHARACTER_SETS = [
    ("\\ISO 2022 IR 58", b"Zhang^XiaoDong=" + b"\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab"),
    ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030")),
    ("ISO_IR 192", "Wang^XiaoDong=王^小东=".encode()),
    ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
    ("ISO_IR 100", "Zhang^San=张^三".encode("gbk")),
    ("", "Zhang^San=张^三".encode("gbk")),
    ("ISO_IR 9999", "Müller^Jörg".encode("latin-1")),
]


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(("character_set", "name"), CHARACTER_SETS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_patient_bytes_arrive_as_they_were(
    tmp_path: Path, character_set: str, name: bytes, syntax: str | None
) -> None:
    name += b" " * (len(name) % 2)
    referrer = Dataset()
    referrer.InstitutionName = "X" * len(name)
    ds = breast_image(
        PatientName="N" * len(name),
        StudyDescription="D" * len(name),
        ReferringPhysicianIdentificationSequence=[referrer],
        PregnancyStatus=4,
    )
    if character_set:
        ds.add_new(0x00080005, "CS", "S" * len(character_set))
    if syntax:
        ds.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    content = buffer.getvalue()
    for filler in (b"N", b"D", b"X"):
        assert filler * len(name) in content
        content = content.replace(filler * len(name), name)
    if character_set:
        content = content.replace(b"S" * len(character_set), character_set.encode())
    path = tmp_path / "a.dcm"
    path.write_bytes(content)

    (built,) = results_of(path)
    written = io.BytesIO()
    write_result(built, written)
    found = dcmread(io.BytesIO(written.getvalue()))
    for tag in (0x00100010, 0x00081030):
        element = found.get_item(Tag(tag))
        assert isinstance(element, RawDataElement)
        assert element.value == name
    assert written.getvalue().count(name) == 3
    assert (character_set.encode() in written.getvalue()) or not character_set
    assert found.PregnancyStatus == 4
    assert check_result(found, load_source(path)) == ()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_demographics_are_carried_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    content = encoded(breast_image(PatientWeight="61.5"))
    content = content.replace(b"DA\x08\x0019700102", b"DA\x08\x001970    ").replace(
        b"CS\x02\x00F ", b"CS\x02\x00f "
    )
    content = content.replace(b"TM\x06\x00101112", b"TM\x06\x0010:11:").replace(
        b"DS\x04\x0061.5", b"DS\x04\x00ca60"
    )
    path.write_bytes(content)
    (built,) = results_of(path)
    for tag, value in (
        (0x00100030, b"1970    "),
        (0x00100040, b"f "),
        (0x00080030, b"10:11:"),
        (0x00101030, b"ca60"),
    ):
        element = built.get_item(Tag(tag))
        assert element is not None
        assert element.value == value


def test_it_is_written_as_pydicom_writes_it(tmp_path: Path) -> None:
    """Without its copies of the pixels."""
    (built,) = results_of(saved(breast_image(), tmp_path / "a.dcm"))
    ours, theirs = io.BytesIO(), io.BytesIO()
    write_result(built, ours)
    write_result(built, tmp_path / "file")
    dcmwrite(theirs, built, enforce_file_format=True)
    assert ours.getvalue() == theirs.getvalue() == (tmp_path / "file").read_bytes()
    assert (built.pixel_array == dcmread(tmp_path / "file").pixel_array).all()


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    path = saved(breast_image(), tmp_path / "a.dcm")
    copies = []
    for _ in range(2):
        buffer = io.BytesIO()
        write_result(results_of(path)[0], buffer)
        copies.append(buffer.getvalue())
    assert copies[0] == copies[1]


def test_missing_type_2_attributes_are_there_and_empty(tmp_path: Path) -> None:
    gone = dict.fromkeys(("PatientID", "PatientSex", "StudyID", "ReferringPhysicianName", "Manufacturer"))
    ds = result_of(breast_image(**gone), tmp_path)
    for keyword in ("PatientID", "PatientSex", "StudyID", "ReferringPhysicianName"):
        assert ds[keyword].is_empty
    assert ds.ContributingEquipmentSequence[0].Manufacturer == "unknown"


# -- identity ------------------------------------------------------------------------------------


def uids(ds: FileDataset, folder: Path, bundle: BundleFacts = BUNDLE, digest: str = "d") -> tuple[str, str]:
    image = read_image(saved(ds, folder / "a.dcm"))
    assert isinstance(image, SourceImage)
    made = result_identity(image.header, image.panes[0], image.frame_index, bundle, digest)
    assert is_uid(made.sop_instance_uid)
    assert is_uid(made.series_instance_uid)
    return made.sop_instance_uid, made.series_instance_uid


def test_uids_follow_pixels_bundle_and_settings_not_demographics(tmp_path: Path) -> None:
    instance, series = uids(breast_image(), tmp_path)
    assert uids(breast_image(PatientName="Other^Name", AccessionNumber="B"), tmp_path) == (instance, series)
    changed = breast_image()
    data = bytearray(changed.PixelData)
    data[5] ^= 1
    changed["PixelData"].value = bytes(data)
    assert uids(changed, tmp_path)[0] != instance
    assert uids(changed, tmp_path)[1] == series
    assert uids(breast_image(SOPInstanceUID="1.2.9"), tmp_path)[0] != instance
    assert uids(breast_image(SeriesInstanceUID="1.2.9"), tmp_path)[1] != series
    for other in (
        uids(breast_image(), tmp_path, replace(BUNDLE, weights_sha256="aa" * 32)),
        uids(breast_image(), tmp_path, replace(BUNDLE, version="0.2.0")),
        uids(breast_image(), tmp_path, digest="e"),
    ):
        assert not {instance, series} & set(other)


def test_settings_digest_follows_everything_that_shows() -> None:
    label, settings = LabelSettings(), ResultSettings()
    first = settings_digest(label, settings)
    assert settings_digest(LabelSettings(), ResultSettings()) == first
    assert settings_digest(replace(label, text="X"), settings) != first
    assert settings_digest(label, replace(settings, series_number_base=8000)) != first


# -- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"SyntheticData": "NO"}, "SyntheticData is NO, wanted YES"),
        ({"PatientID": "OTHER"}, "(0010,0020) differs from the source"),
        ({"StudyInstanceUID": "1.2.3"}, "(0020,000D) differs from the source"),
        ({"SOPInstanceUID": "1.2.826.0.1.1.3"}, "SOPInstanceUID is one of the source's"),
        ({"SeriesDescription": "Strain"}, "does not begin with AI SYNTHETIC"),
        ({"Rows": 7}, "PixelData has"),
        ({"SourceImageSequence": []}, "SourceImageSequence does not have one item"),
        ({"SpecificCharacterSet": "ISO_IR 192"}, "the character set differs"),
        ({"Laterality": None}, ""),
    ],
)
def test_check_finds_what_is_broken(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    path = saved(breast_image(), tmp_path / "a.dcm")
    (built,) = results_of(path)
    buffer = io.BytesIO()
    for keyword, value in change.items():
        setattr(built, keyword, value)
    write_result(built, buffer)
    buffer.seek(0)
    found = check_result(dcmread(buffer), load_source(path))
    assert (problem in "; ".join(found)) if problem else found == ()
    if problem:
        with pytest.raises(ResultInvalid):
            ensure_valid_result(built, load_source(path))
        assert "PID-77" not in "; ".join(found)


def test_setting_that_does_not_fit_its_attribute_is_refused(tmp_path: Path) -> None:
    path = saved(breast_image(), tmp_path / "a.dcm")
    with pytest.raises(ValueError, match="64"):
        results_of(path, replace(SETTINGS, series_description="AI SYNTHETIC " + "x" * 64))


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PatientName": None, "PatientID": None, "StudyDate": None, "Manufacturer": None},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6", "PatientSize": "", "PatientComments": "none"},
        {"ImageLaterality": "L", "BodyPartExamined": "BREAST", "TimezoneOffsetFromUTC": "-0330"},
    ],
)
def test_validators_find_nothing(tmp_path: Path, attributes: dict[str, object], syntax: str | None) -> None:
    ds = breast_image(**attributes)
    if syntax:
        ds.file_meta.TransferSyntaxUID = syntax
    source = tmp_path / "source.dcm"
    dcmwrite(source, ds, enforce_file_format=True)
    (built,) = results_of(source)
    result = tmp_path / "result.dcm"
    write_result(built, result)
    assert dciodvfy(result) == []
    # dcentvfy does not know the retired class, and cannot know that type 2 has to be there, if empty.
    if None not in attributes.values() and "SOPClassUID" not in attributes:
        assert dcentvfy(source, result) == []


def test_zone_of_the_caller_is_used_where_the_source_has_none(tmp_path: Path) -> None:
    path = saved(breast_image(), tmp_path / "a.dcm")
    (built,) = results_of(path, created=CREATED.astimezone(timezone(timedelta(hours=8))))
    assert built.ContentTime == "130607.000891"
