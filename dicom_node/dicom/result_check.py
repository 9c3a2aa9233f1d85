"""The node's own check of a result, before anything leaves it."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from dicom_node.core.errors import ResultInvalid
from dicom_node.core.identity import is_uid
from dicom_node.core.safety import begins_synthetic
from dicom_node.dicom.header import is_stepped_over, items, text, texts, whole_number
from dicom_node.dicom.marks import RESULT_IMAGE_TYPE
from dicom_node.dicom.patient_study import PATIENT_AND_STUDY_TYPE_2
from dicom_node.dicom.services import SECONDARY_CAPTURE
from dicom_node.dicom.verbatim import raw_bytes, tags_of

_EXPECTED = {
    "SOPClassUID": SECONDARY_CAPTURE,
    "Modality": "US",
    "ConversionType": "SYN",
    "SyntheticData": "YES",
    "RecognizableVisualFeatures": "NO",
    "SamplesPerPixel": "3",
    "PhotometricInterpretation": "RGB",
    "PlanarConfiguration": "0",
    "BitsAllocated": "8",
    "BitsStored": "8",
    "HighBit": "7",
    "PixelRepresentation": "0",
}
_TYPE_1 = [
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "ContentQualification",
    "BurnedInAnnotation",
    "DerivationDescription",
    "Rows",
    "Columns",
    "InstanceNumber",
    "SeriesNumber",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
]
_TYPE_2 = [*PATIENT_AND_STUDY_TYPE_2, "PatientOrientation"]
_SAME_AS_SOURCE = tags_of(
    [
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
        "ReferringPhysicianName",
        "TimezoneOffsetFromUTC",
    ]
)
_LO_KEYWORDS = [
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "SeriesDescription",
    "InstitutionName",
    "SecondaryCaptureDeviceManufacturer",
    "SecondaryCaptureDeviceSoftwareVersions",
]


def check_result(ds: Dataset, source: Dataset) -> tuple[str, ...]:
    """Every promise about a result that this one breaks; empty if none. No patient data.

    ds      as built, or read back.
    source  from `header.load_source`.
    """
    return (
        *_attributes(ds),
        *_uids(ds, source),
        *_same_patient(ds, source),
        *_origin(ds, source),
        *_strings(ds),
        *_pixels(ds),
    )


def ensure_valid_result(ds: Dataset, source: Dataset) -> None:
    """Raise ResultInvalid, naming every problem, unless the result keeps all promises."""
    problems = check_result(ds, source)
    if problems:
        raise ResultInvalid("; ".join(problems))


def _attributes(ds: Dataset) -> list[str]:
    problems = [
        f"{keyword} is {text(ds, keyword) or 'absent'}, wanted {wanted}"
        for keyword, wanted in _EXPECTED.items()
        if text(ds, keyword) != wanted
    ]
    if texts(ds, "ImageType") != RESULT_IMAGE_TYPE:
        problems.append(f"ImageType is not {chr(92).join(RESULT_IMAGE_TYPE)}")
    problems += [f"{keyword} is empty" for keyword in _TYPE_1 if not text(ds, keyword)]
    problems += [f"{keyword} is absent" for keyword in _TYPE_2 if keyword not in ds]
    if "Laterality" not in ds and not text(ds, "ImageLaterality"):
        problems.append("neither Laterality nor ImageLaterality is there")
    if text(ds, "BurnedInAnnotation") not in ("YES", "NO"):
        problems.append("BurnedInAnnotation is neither YES nor NO")
    if not begins_synthetic(text(ds, "SeriesDescription")):
        problems.append("SeriesDescription does not begin with AI SYNTHETIC")
    return problems


def _uids(ds: Dataset, source: Dataset) -> list[str]:
    own = {keyword: text(ds, keyword) for keyword in ("SOPInstanceUID", "SeriesInstanceUID")}
    problems = [f"{keyword} is not a valid UID" for keyword, uid in own.items() if not is_uid(uid)]
    taken = {text(source, k) for k in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")}
    problems += [f"{keyword} is one of the source's" for keyword, uid in own.items() if uid in taken]
    if own["SOPInstanceUID"] == own["SeriesInstanceUID"]:
        problems.append("SOPInstanceUID and SeriesInstanceUID are the same")
    return problems


def _same_patient(ds: Dataset, source: Dataset) -> list[str]:
    """Same study, same patient: compared as bytes, because text has already been interpreted."""
    patient = [BaseTag(tag) for tag in source.keys() if BaseTag(tag).group == 0x0010]  # noqa: SIM118
    problems = []
    # pydicom decodes this one while it reads, so there are no bytes left to compare.
    if texts(ds, "SpecificCharacterSet") != texts(source, "SpecificCharacterSet"):
        problems.append("the character set differs from the source")
    for tag in (*patient, *_SAME_AS_SOURCE):
        if isinstance(source.get_item(tag, keep_deferred=True), RawDataElement) and not is_stepped_over(
            source, tag
        ):
            wanted, found = raw_bytes(source, tag), raw_bytes(ds, tag)
            if wanted != found and not _is_binary_or_sequence(ds, tag):
                problems.append(f"{tag} differs from the source")
    return problems


def _is_binary_or_sequence(ds: Dataset, tag: BaseTag) -> bool:
    """Numbers may have changed byte order and sequences their encoding; both are copied, not compared."""
    element = ds.get_item(tag, keep_deferred=True) if tag in ds else None
    return element is not None and element.VR in ("SQ", "US", "UL", "SS", "SL", "FD", "FL", "OB", "OW", "UN")


def _origin(ds: Dataset, source: Dataset) -> list[str]:
    problems = []
    references = items(ds, "SourceImageSequence")
    if len(references) != 1:
        problems.append("SourceImageSequence does not have one item")
    elif text(references[0], "ReferencedSOPInstanceUID") != text(source, "SOPInstanceUID"):
        problems.append("SourceImageSequence does not name the source")
    purposes = [
        text(code, "CodeValue")
        for maker in items(ds, "ContributingEquipmentSequence")
        for code in items(maker, "PurposeOfReferenceCodeSequence")
    ]
    problems += [
        f"ContributingEquipmentSequence names no {name}"
        for value, name in (("109101", "acquisition equipment"), ("109100", "synthesizing equipment"))
        if value not in purposes
    ]
    if text(source, "LossyImageCompression") == "01" and text(ds, "LossyImageCompression") != "01":
        problems.append("the lossy history of the source is lost")
    if text(source, "ContentQualification") == "RESEARCH" and text(ds, "ContentQualification") != "RESEARCH":
        problems.append("the source is for research, the result does not say so")
    return problems


def _strings(ds: Dataset) -> list[str]:
    problems = []
    for keyword in _LO_KEYWORDS:
        values = texts(ds, keyword)
        if any(len(value) > 64 for value in values):
            problems.append(f"{keyword} has a value of more than 64 characters")
        # The character set is the source's: our own words must mean the same in all of them.
        if not all(value.isascii() for value in values):
            problems.append(f"{keyword} is not ASCII")
    return problems


def _pixels(ds: Dataset) -> list[str]:
    rows, columns = whole_number(ds, "Rows") or 0, whole_number(ds, "Columns") or 0
    element = ds.get_item(BaseTag(0x7FE00010), keep_deferred=True) if "PixelData" in ds else None
    size = len(element.value or b"") if element is not None else 0
    needed = rows * columns * 3
    return [] if size == needed + needed % 2 else [f"PixelData has {size} bytes, wanted {needed}"]
