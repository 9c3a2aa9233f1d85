"""The intake gate: which images this node leaves alone, each time with a code and the facts."""

from __future__ import annotations

from dicom_node.core.image import ImageHeader
from dicom_node.dicom.colour import ColourKind, ColourMeasure
from dicom_node.dicom.content import share_of, texture_share
from dicom_node.dicom.pixels import Bytes
from dicom_node.dicom.regions import RegionFindings, SpatialFormat
from dicom_node.dicom.services import ULTRASOUND_CLASSES
from dicom_node.dicom.skip import MIN_SIDE, Skip, SkipCode

_ECHO = 16
_MIN_ECHO_SHARE = 0.08
"""Share of a pane above grey level 16 under which it shows no tissue. Sector images of a heart, mostly
dark corners, have 0.20 and more; a probe in air has 0.03 to 0.05, text and grey bar included."""
_MIN_TEXTURE_SHARE = 0.03


# ImageType value 4 of ultrasound, a hexadecimal sum (PS3.3 C.8.5.6.1.1). It is often wrong or absent:
# it can exclude an image, never admit one.
_IMAGE_TYPE_BITS: tuple[tuple[int, SkipCode, str], ...] = (
    (0x0022, SkipCode.M_MODE, "M-mode"),
    (0x000C, SkipCode.SPECTRAL, "spectral Doppler"),
    (0x0110, SkipCode.DOPPLER, "colour or power Doppler"),
    (0x0200, SkipCode.ELASTOGRAPHY, "tissue characterisation"),
    (0x0040, SkipCode.THREE_D, "3D rendering"),
)

_COLOUR_CODES = {
    ColourKind.FLOW: SkipCode.DOPPLER,
    ColourKind.STRAIN: SkipCode.ELASTOGRAPHY,
    ColourKind.UNDECIDED: SkipCode.COLOUR_OVERLAY,
}


def judge_header(header: ImageHeader) -> Skip | None:
    """Decide what the header alone decides; the receiver can ask it too."""
    if header.own_result:
        return Skip(SkipCode.OWN_RESULT, f"Known by its {header.own_mark}")
    if header.synthetic:
        return Skip(SkipCode.SYNTHETIC, "Image Type says DERIVED, Synthetic Data YES")
    if header.sop_class_uid not in ULTRASOUND_CLASSES:
        return Skip(SkipCode.NOT_ULTRASOUND, f"The SOP class is {header.sop_class_uid}")
    return _judge_image_type(header.image_type) or _judge_size(header.rows, header.columns)


def judge_regions(findings: RegionFindings) -> Skip | None:
    """Decide an image whose regions say that there is no tissue in it."""
    if not findings.listed or findings.tissue_listed or findings.colour_flow:
        return None
    if SpatialFormat.SPECTRAL in findings.formats:
        return Skip(SkipCode.SPECTRAL, "The regions list a spectral trace and no tissue")
    if SpatialFormat.M_MODE in findings.formats:
        return Skip(SkipCode.M_MODE, "The regions list an M-mode trace and no tissue")
    if findings.formats <= {SpatialFormat.NONE, SpatialFormat.GRAPHICS, SpatialFormat.WAVEFORM}:
        return Skip(SkipCode.GRAPHICS_ONLY, "The regions list graphics or waveforms and no tissue")
    return None


def judge_colour(measure: ColourMeasure, *, flow_expected: bool = False) -> Skip | None:
    """Decide by the measured colour of an area."""
    kind = measure.kind(flow_expected=flow_expected)
    if kind is ColourKind.NONE:
        return None
    facts = f"{measure.share:.1%} of the B-mode area is coloured"
    if flow_expected:
        facts += ", and a colour-flow region overlaps it"
    return Skip(_COLOUR_CODES[kind], facts)


def judge_signal(grey: Bytes) -> Skip | None:
    """Decide whether an area, uint8 (H, W), shows any tissue."""
    if min(grey.shape) < MIN_SIDE:
        return Skip(SkipCode.TOO_SMALL, f"The B-mode area is {grey.shape[1]} x {grey.shape[0]} pixels")
    echoes = share_of(grey > _ECHO)
    if echoes < _MIN_ECHO_SHARE:
        return Skip(SkipCode.NO_SIGNAL, f"Only {echoes:.1%} of the B-mode area holds echoes")
    texture = texture_share(grey)
    if texture < _MIN_TEXTURE_SHARE:
        return Skip(SkipCode.NO_SIGNAL, f"Only {texture:.1%} of the B-mode area has the texture of tissue")
    return None


def _judge_image_type(values: tuple[str, ...]) -> Skip | None:
    modes = values[3] if len(values) > 3 else ""
    if len(modes) != 4 or any(digit not in "0123456789ABCDEFabcdef" for digit in modes):
        return None
    for bits, code, name in _IMAGE_TYPE_BITS:
        if int(modes, 16) & bits:
            return Skip(code, f"Image Type says {name} ({modes})")
    return None


def _judge_size(rows: int, columns: int) -> Skip | None:
    if 0 < min(rows, columns) < MIN_SIDE:
        return Skip(SkipCode.TOO_SMALL, f"The image is {columns} x {rows} pixels")
    return None
