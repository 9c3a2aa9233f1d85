"""THE place where the attributes of result objects are decided."""

from __future__ import annotations

import re
from copy import copy, deepcopy
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import Protocol

import numpy as np
from highdicom.base import SOPClass
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag
from pydicom.uid import JPEG2000, UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSNearLossless

from dicom_node.core.identity import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)
from dicom_node.core.image import ImageHeader
from dicom_node.dicom.header import pydicom_quiet, text, texts, whole_number
from dicom_node.dicom.label import UNFAMILIAR_WORDS, Picture
from dicom_node.dicom.marks import COMMENT, PRIVATE_CREATOR, PRIVATE_GROUP, RESULT_IMAGE_TYPE
from dicom_node.dicom.part10 import file_head
from dicom_node.dicom.patient_study import copy_patient_and_study
from dicom_node.dicom.reading import Pane, SourceImage
from dicom_node.dicom.result_check import check_result, ensure_valid_result
from dicom_node.dicom.result_facts import (
    LO_LENGTH,
    SCHEMA_VERSION,
    UNJUDGED,
    BundleFacts,
    Equipment,
    Judgement,
    ResultIdentity,
    ResultSettings,
    result_identity,
    settings_digest,
    software_versions,
)
from dicom_node.dicom.result_origin import code_item, put_origin
from dicom_node.dicom.services import SECONDARY_CAPTURE
from dicom_node.dicom.verbatim import copy_verbatim, keep_as_written, tags_of

__all__ = [
    "BundleFacts",
    "Equipment",
    "Judgement",
    "ResultIdentity",
    "ResultSettings",
    "build_result",
    "check_result",
    "ensure_valid_result",
    "result_identity",
    "settings_digest",
    "write_result",
]

_PIXEL_DATA = BaseTag(0x7FE00010)
_ANY_UID = "2.25.1"
_LONG_ELEMENT = Struct("<HH2sHL")
"""The head of an element of VR OB in Explicit VR Little Endian (PS3.5 7.1.2)."""

_LOSSY_METHODS = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
}


class Writable(Protocol):
    """A file, or what takes bytes like one."""

    def write(self, some: bytes | memoryview, /) -> object:
        """Go on with these bytes."""


def build_result(
    source: Dataset,
    image: SourceImage,
    pane: Pane,
    picture: Picture,
    identity: ResultIdentity,
    bundle: BundleFacts,
    equipment: Equipment,
    settings: ResultSettings,
    created_at: datetime,
    judgement: Judgement = UNJUDGED,
) -> Dataset:
    """Build the Secondary Capture object of one pane (PS3.3 A.8.1).

    source      from `header.load_source`.
    created_at  aware; the time of the job, never of the clock, so that the object can be built again byte
                for byte. Written in the source's time zone, or in its own where the source names none.

    Raises ValueError if `created_at` is naive or a setting does not fit its attribute.
    """
    if created_at.tzinfo is None:
        raise ValueError("created_at must be aware")
    with pydicom_quiet():
        ds = _base(image.header, identity, equipment, bundle, settings)
        copy_patient_and_study(source, ds)
        _put_series_and_times(ds, source, image.header, pane, settings, created_at)
        put_origin(ds, source, image, bundle, equipment, judgement, created_at)
        _put_marks(ds, source, pane, bundle, settings, judgement)
        _put_anatomy(ds, source, settings)
        _put_lossy_history(ds, source)
        _put_pixels(ds, pane, picture)
        _put_provenance(ds, pane, bundle, judgement)
        keep_as_written(ds)
    return ds


def write_result(ds: Dataset, target: Path | Writable) -> None:
    """Write a result as Part 10, Explicit VR Little Endian.

    The pixels go there from where they lie: pydicom would copy them three times, which takes longer than
    all the rest of a result.
    """
    if isinstance(target, Path):
        with target.open("wb") as file:
            write_result(ds, file)
        return
    pixels = ds[_PIXEL_DATA]
    del ds[_PIXEL_DATA]
    head = DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    head.write(file_head(ds.SOPClassUID, ds.SOPInstanceUID, ExplicitVRLittleEndian))
    try:
        with pydicom_quiet():
            write_dataset(head, ds)
    finally:
        ds[_PIXEL_DATA] = pixels
    head.write(_LONG_ELEMENT.pack(0x7FE0, 0x0010, b"OB", 0, len(pixels.value)))
    target.write(head.getvalue())
    target.write(pixels.value)  # the last element: what a result has lies below its group


def _base(
    header: ImageHeader,
    identity: ResultIdentity,
    equipment: Equipment,
    bundle: BundleFacts,
    settings: ResultSettings,
) -> Dataset:
    """highdicom's base object, which checks lengths of our own strings and fills types 1 and 2.

    Patient and study go in empty: highdicom would reject what real archives hold (a sex of `f`, a
    character set of ISO 2022 IR 58), and they are copied verbatim next.
    """
    like = _base_alike(equipment, bundle, settings)
    ds = Dataset()
    for element in like:
        ds[element.tag] = copy(element)
    ds.StudyInstanceUID = header.study_instance_uid
    ds.SeriesInstanceUID = identity.series_instance_uid
    ds.SOPInstanceUID = identity.sop_instance_uid
    ds.file_meta = deepcopy(like.file_meta)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(identity.sop_instance_uid)
    return ds


@lru_cache(maxsize=16)
def _base_alike(equipment: Equipment, bundle: BundleFacts, settings: ResultSettings) -> Dataset:
    """The base of all results of one configuration; to be copied."""
    ds: Dataset = SOPClass(
        study_instance_uid=_ANY_UID,
        series_instance_uid=_ANY_UID,
        series_number=max(1, settings.series_number_base),
        sop_instance_uid=_ANY_UID,
        sop_class_uid=SECONDARY_CAPTURE,
        instance_number=1,
        modality="US",
        manufacturer=equipment.manufacturer,
        manufacturer_model_name=equipment.model_name,
        device_serial_number=equipment.device_serial,
        software_versions=list(software_versions(equipment, bundle)),
        institution_name=equipment.institution or None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_qualification=settings.content_qualification,
        series_description=settings.series_description,
    )
    if equipment.station_name:
        ds.StationName = equipment.station_name
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    ds.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return ds


def _put_series_and_times(
    ds: Dataset,
    source: Dataset,
    header: ImageHeader,
    pane: Pane,
    settings: ResultSettings,
    created_at: datetime,
) -> None:
    source_series = whole_number(source, "SeriesNumber") or 0
    ds.SeriesNumber = settings.series_number_base + (source_series if 0 <= source_series < 1000 else 0)
    # The number of the source, so that a viewer lines the two series up; later panes go far behind it.
    ds.InstanceNumber = min(header.instance_number or 1, 2**31 - 10_000) + 1000 * pane.index
    ds.PatientOrientation = None
    local = created_at.astimezone(_zone_of(source) or created_at.tzinfo)
    date, time = local.strftime("%Y%m%d"), local.strftime("%H%M%S.%f")
    ds.InstanceCreationDate = ds.ContentDate = ds.DateOfSecondaryCapture = date
    ds.InstanceCreationTime = ds.ContentTime = ds.TimeOfSecondaryCapture = time


def _zone_of(source: Dataset) -> timezone | None:
    """Timezone Offset From UTC (0008,0201), which governs every date and time of the object."""
    match = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", text(source, "TimezoneOffsetFromUTC"))
    if match is None or int(match[2]) > 14:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)


def _put_marks(
    ds: Dataset,
    source: Dataset,
    pane: Pane,
    bundle: BundleFacts,
    settings: ResultSettings,
    judgement: Judgement,
) -> None:
    """What says that this is synthetic, in every place where a reader may look."""
    ds.ImageType = list(RESULT_IMAGE_TYPE)
    ds.ConversionType = "SYN"
    ds.SyntheticData = "YES"
    if text(source, "ContentQualification") in ("RESEARCH", "SERVICE") or bundle.trained_on_simulation:
        ds.ContentQualification = "RESEARCH"
    ds.ImageComments = f"{COMMENT} - {UNFAMILIAR_WORDS}" if judgement.unfamiliar else COMMENT
    inherited = text(source, "BurnedInAnnotation")
    if pane.found_by == "regions":
        ds.BurnedInAnnotation = "NO" if settings.burned_in_policy == "from-region" else "YES"
    else:
        # Pixels from outside a region of the scanner may show its header line, and so a name.
        ds.BurnedInAnnotation = inherited if inherited in ("YES", "NO") else "YES"
    ds.RecognizableVisualFeatures = "NO"


def _put_anatomy(ds: Dataset, source: Dataset, settings: ResultSettings) -> None:
    """Side and body part. One of the two lateralities has to be there for a paired organ (C.7.3.1)."""
    body_part = text(source, "BodyPartExamined")
    if not re.fullmatch(r"[A-Z0-9 _]{1,16}", body_part):
        body_part = settings.body_part_default
    if body_part:
        ds.BodyPartExamined = body_part
    if body_part == "BREAST" and "AnatomicRegionSequence" not in ds:
        ds.AnatomicRegionSequence = [code_item("76752008", "SCT", "Breast")]
    if text(source, "ImageLaterality") in ("L", "R", "U", "B"):
        ds.ImageLaterality = text(source, "ImageLaterality")
    else:
        laterality = text(source, "Laterality")
        ds.Laterality = laterality if laterality in ("L", "R") else None


def _put_lossy_history(ds: Dataset, source: Dataset) -> None:
    """Once lossy, always lossy (C.7.6.1.1.5), also where the source forgot to say so."""
    said = text(source, "LossyImageCompression")
    syntax = UID(str(source.file_meta.TransferSyntaxUID))
    # JPEG 2000 under this syntax may be reversible: there a plain "00" is believed.
    lossy_now = syntax in _LOSSY_METHODS and not (syntax == JPEG2000 and said == "00")
    if said == "01" or lossy_now:
        ds.LossyImageCompression = "01"
        copy_verbatim(source, ds, tags_of(["LossyImageCompressionRatio", "LossyImageCompressionMethod"]))
        if syntax in _LOSSY_METHODS and not texts(source, "LossyImageCompressionMethod"):
            ds.LossyImageCompressionMethod = _LOSSY_METHODS[syntax]
    elif said == "00":
        ds.LossyImageCompression = "00"


def _put_pixels(ds: Dataset, pane: Pane, picture: Picture) -> None:
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = picture.pixels.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    if pane.spacing_mm is not None:
        # DS holds 16 characters; ten significant digits are far below the scanner's own accuracy.
        ds.PixelSpacing = [f"{spacing / picture.scale:.10g}" for spacing in pane.spacing_mm]
    data: bytes | memoryview = np.ascontiguousarray(picture.pixels).data.cast("B")
    if len(data) % 2:
        data = bytes(data) + b"\0"
    # pydicom's check knows no memory that is not its own.
    ds[_PIXEL_DATA] = DataElement(_PIXEL_DATA, "OB", data, validation_mode=IGNORE)


def _put_provenance(ds: Dataset, pane: Pane, bundle: BundleFacts, judgement: Judgement) -> None:
    """What standard attributes have no room for; an archive may drop it."""
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "LO", bundle.weights_sha256)
    block.add_new(0x02, "LO", f"{bundle.name} {bundle.version}"[:LO_LENGTH])
    block.add_new(0x03, "LO", bundle.colormap[:LO_LENGTH])
    block.add_new(0x04, "LO", pane.digest)
    block.add_new(0x05, "CS", pane.found_by.replace("-", "_").upper())
    block.add_new(0x06, "IS", list(pane.box))
    block.add_new(0x07, "IS", SCHEMA_VERSION)
    for number, value in ((0x08, judgement.familiarity), (0x09, judgement.confidence)):
        if value is not None:
            block.add_new(number, "DS", f"{value:.4g}")
