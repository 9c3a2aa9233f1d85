"""What this node accepts, proposes and means on the wire: SOP classes, transfer syntaxes, statuses."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec

from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

ULTRASOUND_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.6.1": "Ultrasound Image Storage",
    "1.2.840.10008.5.1.4.1.1.3.1": "Ultrasound Multi-frame Image Storage",
    "1.2.840.10008.5.1.4.1.1.6": "Ultrasound Image Storage (Retired)",
    "1.2.840.10008.5.1.4.1.1.3": "Ultrasound Multi-frame Image Storage (Retired)",
}
"""What the receiver takes and the gate reads (PS3.4 B.5); old scanners still send the retired classes."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary Capture Image Storage (PS3.3 A.8.1): the class of our still results."""

RETURNED_CLASSES: dict[str, str] = {SECONDARY_CAPTURE: "Secondary Capture Image Storage"}
"""Taken as well, so that an archive that routes our own results back to us gets an answer, not a refusal."""

UNCOMPRESSED = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(ExplicitVRBigEndian))

DECODERS: dict[str, str] = {
    str(RLELossless): "pylibjpeg",
    str(JPEGBaseline8Bit): "pillow",
    str(JPEGLSLossless): "pyjpegls",
    str(JPEGLSNearLossless): "pyjpegls",
    str(JPEG2000Lossless): "pylibjpeg",
    str(JPEG2000): "pylibjpeg",
}
"""Transfer syntax -> the one pydicom plug-in that decodes it here.

Named one by one: plug-ins differ by a few grey levels, and which of them pydicom would pick
depends on what else is installed. The input of the network must not.
"""

if find_spec("gdcm") is not None:
    DECODERS |= {str(JPEGLosslessSV1): "gdcm", str(JPEGLossless): "gdcm"}


def transfer_syntaxes_in() -> tuple[str, ...]:
    """Every transfer syntax we can decode, in the order an acceptor should prefer them.

    Explicit VR Little Endian comes first: where a sender offers several in one context, it must
    never be us who make it compress.
    """
    return UNCOMPRESSED + tuple(DECODERS)


TRANSFER_SYNTAXES_OUT = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
"""What results are offered in. The file is Explicit VR; Implicit is for archives that take no other."""


class StatusKind(StrEnum):
    """What a C-STORE answer asks of the sender."""

    SUCCESS = "success"
    WARNING = "warning"
    TEMPORARY = "temporary"
    PERMANENT = "permanent"


_MEANINGS: dict[int, str] = {
    0x0000: "success",
    0x0001: "warning: optional attribute not supported",
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0107: "warning: attribute list error",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0115: "invalid argument value",
    0x0116: "warning: attribute value out of range",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class and instance conflict",
    0x0120: "missing attribute",
    0x0122: "SOP class not supported",
    0x0123: "no such action type",
    0x0124: "not authorised",
    0x0131: "duplicate transaction UID",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class (warning)",
}
_RANGES: tuple[tuple[int, int, str], ...] = (
    (0xA700, 0xA7FF, "out of resources"),
    (0xA900, 0xA9FF, "data set does not match SOP class"),
    (0xB000, 0xBFFF, "warning"),
    (0xC000, 0xCFFF, "cannot understand"),
)
# 0110 is how several archives say "not now" (a database that is away), so it is worth another try.
_TEMPORARY = {0x0110, 0x0210, 0x0213}
# Warnings that are not Bxxx (PS3.7 C.4.1 to C.4.3).
_WARNINGS = {0x0001, 0x0107, 0x0116}
# The archive already has this instance: for a sender of unchangeable objects that is an arrival.
_ARRIVED_ALL_THE_SAME = {0x0111}


def status_kind(status: int) -> StatusKind:
    """Class a C-STORE status (PS3.4 Table B.2-1, PS3.7 Annex C)."""
    if status == 0x0000:
        return StatusKind.SUCCESS
    if status in _WARNINGS | _ARRIVED_ALL_THE_SAME or 0xB000 <= status <= 0xBFFF:
        return StatusKind.WARNING
    if status in _TEMPORARY or 0xA700 <= status <= 0xA7FF:
        return StatusKind.TEMPORARY
    return StatusKind.PERMANENT


def status_text(status: int) -> str:
    """The status as `0xA700 (out of resources)`."""
    meaning = _MEANINGS.get(status) or next(
        (text for low, high, text in _RANGES if low <= status <= high), "unknown status"
    )
    return f"0x{status:04X} ({meaning})"
