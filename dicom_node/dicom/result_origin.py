"""Where a result comes from: its source image, the scanner, this node, the algorithm."""

from __future__ import annotations

from datetime import UTC, datetime

from pydicom import Dataset
from pydicom.tag import BaseTag

from dicom_node.dicom.header import items, text
from dicom_node.dicom.marks import CODING_SCHEME, CONTRIBUTION_WORDS, DERIVATION_WORDS, WEIGHTS_WORDS
from dicom_node.dicom.reading import SourceImage
from dicom_node.dicom.result_facts import LO_LENGTH, BundleFacts, Equipment, Judgement, software_versions
from dicom_node.dicom.verbatim import copy_verbatim, keep_as_written, tags_of

_SCANNER = tags_of(
    [
        "Manufacturer",
        "ManufacturerModelName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "InstitutionName",
        "StationName",
    ]
)


def put_origin(
    ds: Dataset,
    source: Dataset,
    image: SourceImage,
    bundle: BundleFacts,
    equipment: Equipment,
    judgement: Judgement,
    created_at: datetime,
) -> None:
    """Where it comes from: source image, scanner, this node, the algorithm."""
    header = image.header
    reference = item_of(
        ReferencedSOPClassUID=header.sop_class_uid, ReferencedSOPInstanceUID=header.sop_instance_uid
    )
    ds.ReferencedSeriesSequence = [
        item_of(SeriesInstanceUID=header.series_instance_uid, ReferencedInstanceSequence=[reference])
    ]
    source_item = item_of(
        ReferencedSOPClassUID=header.sop_class_uid,
        ReferencedSOPInstanceUID=header.sop_instance_uid,
        # The pane is cut out, enlarged and set beside another: no pixel keeps its place.
        SpatialLocationsPreserved="NO",
        PurposeOfReferenceCodeSequence=[
            code_item("121322", "DCM", "Source image for image processing operation")
        ],
    )
    if image.frame_index is not None:
        source_item.ReferencedFrameNumber = image.frame_index + 1
    ds.SourceImageSequence = [source_item]
    trained = "; trained on simulated tissue only" if bundle.trained_on_simulation else ""
    ds.DerivationDescription = (
        f"{DERIVATION_WORDS} predicted from one B-mode frame by a generative neural network; "
        f"not measured; bundle {bundle.name} {bundle.version}, colours {bundle.colormap}{trained}"
        + _own_words(judgement)
    )[:1024]
    ds.DerivationCodeSequence = [
        code_item("SYNSTRAIN", CODING_SCHEME, "Synthetic strain elastography by neural network")
    ]
    ds.CodingSchemeIdentificationSequence = [
        item_of(
            CodingSchemeDesignator=CODING_SCHEME,
            CodingSchemeName="Emode private codes",
            CodingSchemeResponsibleOrganization=equipment.manufacturer,
        )
    ]
    ds.DerivationAlgorithmSequence = [
        item_of(
            AlgorithmFamilyCodeSequence=[code_item("123110", "DCM", "Artificial Intelligence")],
            AlgorithmName=bundle.name[:LO_LENGTH],
            AlgorithmVersion=bundle.version[:LO_LENGTH],
            AlgorithmParameters=f"{WEIGHTS_WORDS} {bundle.weights_sha256}",
            AlgorithmSource=equipment.manufacturer,
        )
    ]
    ds.ContributingEquipmentSequence = [
        _scanner_item(source),
        *_earlier_equipment(source),
        _our_item(equipment, bundle, created_at),
    ]
    if equipment.udi:
        ds.UDISequence = [item_of(UniqueDeviceIdentifier=equipment.udi)]
    # C.8.6.1: what made the secondary capture, repeated for readers that look here alone.
    ds.SecondaryCaptureDeviceID = equipment.device_serial
    ds.SecondaryCaptureDeviceManufacturer = equipment.manufacturer
    ds.SecondaryCaptureDeviceManufacturerModelName = equipment.model_name
    ds.SecondaryCaptureDeviceSoftwareVersions = list(software_versions(equipment, bundle))


def _own_words(judgement: Judgement) -> str:
    words = ""
    if judgement.confidence is not None:
        words += f"; model confidence {judgement.confidence:.2f} of 1 (correlation to expect with the truth)"
    if judgement.familiarity is not None:
        words += f"; familiarity of the image {judgement.familiarity:.2g} of 1"
    return words + "; the image is unlike those that the model learnt from" * judgement.unfamiliar


def _scanner_item(source: Dataset) -> Dataset:
    item = Dataset()
    fitting = [tag for tag in _SCANNER if tag in source and _fits_lo(source, tag)]
    copy_verbatim(source, item, fitting)
    if not text(source, "Manufacturer"):
        item.Manufacturer = "unknown"  # type 1 here, type 2 in the source
    item.PurposeOfReferenceCodeSequence = [code_item("109101", "DCM", "Acquisition Equipment")]
    keep_as_written(item)
    return item


def _fits_lo(source: Dataset, tag: BaseTag) -> bool:
    element = source.get_item(tag, keep_deferred=True)
    value = element.value if element is not None else None
    return isinstance(value, bytes) and all(len(part) <= LO_LENGTH for part in value.split(b"\\"))


def _earlier_equipment(source: Dataset) -> list[Dataset]:
    """What contributed to the source before us, verbatim."""
    holder = Dataset()
    copy_verbatim(source, holder, tags_of(["ContributingEquipmentSequence"]))
    return list(items(holder, "ContributingEquipmentSequence"))


def _our_item(equipment: Equipment, bundle: BundleFacts, created_at: datetime) -> Dataset:
    item = item_of(
        PurposeOfReferenceCodeSequence=[code_item("109100", "DCM", "Synthesizing Equipment")],
        Manufacturer=equipment.manufacturer,
        ManufacturerModelName=equipment.model_name,
        DeviceSerialNumber=equipment.device_serial,
        SoftwareVersions=list(software_versions(equipment, bundle)),
        ContributionDateTime=created_at.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f+0000"),
        ContributionDescription=f"{CONTRIBUTION_WORDS}, {WEIGHTS_WORDS} {bundle.weights_sha256}",
    )
    if equipment.institution:
        item.InstitutionName = equipment.institution
    return item


def item_of(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    return item_of(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
