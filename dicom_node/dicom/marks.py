"""What tells a result of this product from a measured image after others had it in their hands.

Between one node and the next there may be an archive that coerces, anonymises, transcodes, gives new
UIDs, drops private attributes or turns Secondary Capture into Ultrasound. Each takes some marks away,
hardly one takes all; every mark that is left suffices by itself. All are words and codes of this product
that no scanner writes, so a measured image is never taken for a result.
"""

from __future__ import annotations

from collections.abc import Callable

from pydicom import Dataset
from pydicom.tag import BaseTag

from dicom_node.core.safety import begins_synthetic
from dicom_node.dicom.values import as_read, items, text, texts

MANUFACTURER = "Emode project"
MODEL_NAME = "Emode"
RESULT_IMAGE_TYPE = ("DERIVED", "SECONDARY", "SYNTHETIC", "STRAIN_ELASTO")
"""(0008,0008) of every result; values 3 and 4 are ours (PS3.3 C.7.6.1.1.2 leaves them open for SC)."""
CODING_SCHEME = "99EMODE"
COMMENT = "AI SYNTHETIC - NOT MEASURED - predicted from B-mode by a neural network"
DERIVATION_WORDS = "Synthetic strain elastogram"
CONTRIBUTION_WORDS = "Synthetic strain elastography"
WEIGHTS_WORDS = "weights sha256"
PRIVATE_GROUP = 0x0099
PRIVATE_CREATOR = "EMODE PROVENANCE 1"
_CREATORS = tuple(BaseTag(PRIVATE_GROUP << 16 | number) for number in range(0x10, 0x20))


def own_mark(ds: Dataset) -> str:
    """The first mark of ours that the object bears, by the attribute's name; empty if it bears none."""
    return next((name for name, found in _MARKS.items() if found(ds)), "")


def _made_by_us(ds: Dataset) -> bool:
    return text(ds, "Manufacturer") == MANUFACTURER or any(
        value.startswith(WEIGHTS_WORDS) for value in texts(ds, "SoftwareVersions")
    )


def _model_of_synthetic(ds: Dataset) -> bool:
    """The name of the model is one that others may use as well: it counts where the data are synthetic."""
    makers = [ds, *items(ds, "ContributingEquipmentSequence")]
    return text(ds, "SyntheticData") == "YES" and any(
        text(maker, "ManufacturerModelName") == MODEL_NAME for maker in makers
    )


def _contributed(ds: Dataset) -> bool:
    return any(
        _made_by_us(item) or text(item, "ContributionDescription").startswith(CONTRIBUTION_WORDS)
        for item in items(ds, "ContributingEquipmentSequence")
    )


def _captured_by_us(ds: Dataset) -> bool:
    return text(ds, "SecondaryCaptureDeviceManufacturer") == MANUFACTURER or any(
        value.startswith(WEIGHTS_WORDS) for value in texts(ds, "SecondaryCaptureDeviceSoftwareVersions")
    )


def _coded(keyword: str, designator: str) -> Callable[[Dataset], bool]:
    return lambda ds: any(text(item, designator) == CODING_SCHEME for item in items(ds, keyword))


def _begins(keyword: str, words: str) -> Callable[[Dataset], bool]:
    return lambda ds: text(ds, keyword).startswith(words)


def _provenance(ds: Dataset) -> bool:
    """The private creator. Its element number is the next free one, so another program may move it."""
    for tag in _CREATORS:
        if as_read(ds, tag) is not None:
            value = getattr(ds.get_item(tag, keep_deferred=True), "value", None)
            found = value.encode("ascii", "replace") if isinstance(value, str) else value
            if isinstance(found, bytes) and found.strip(b" \0") == PRIVATE_CREATOR.encode("ascii"):
                return True
    return False


_MARKS: dict[str, Callable[[Dataset], bool]] = {
    "Image Type": lambda ds: set(RESULT_IMAGE_TYPE[2:]) <= set(texts(ds, "ImageType")),
    "equipment": _made_by_us,
    "model of synthetic data": _model_of_synthetic,
    "Series Description": lambda ds: begins_synthetic(text(ds, "SeriesDescription")),
    "Contributing Equipment": _contributed,
    "Secondary Capture Device": _captured_by_us,
    "Derivation Code": _coded("DerivationCodeSequence", "CodingSchemeDesignator"),
    "coding scheme": _coded("CodingSchemeIdentificationSequence", "CodingSchemeDesignator"),
    "Derivation Description": _begins("DerivationDescription", DERIVATION_WORDS),
    "algorithm": lambda ds: any(
        text(item, "AlgorithmParameters").startswith(WEIGHTS_WORDS)
        for item in items(ds, "DerivationAlgorithmSequence")
    ),
    "Image Comments": lambda ds: begins_synthetic(text(ds, "ImageComments")),
    "private attributes": _provenance,
}
