"""Reasons for leaving an image alone: stable codes, what each means, and what can be done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MIN_SIDE = 64
"""Pixels on each side that a B-mode area needs; a smaller one shows too little speckle to judge."""


class SkipCode(StrEnum):
    """Why an image is left alone; stable names for tables, screens and tests."""

    OWN_RESULT = "own-result"
    SYNTHETIC = "synthetic"
    NOT_ULTRASOUND = "not-ultrasound"
    NOT_THIS_ROUTE = "not-this-route"
    DOPPLER = "doppler"
    ELASTOGRAPHY = "elastography"
    COLOUR_OVERLAY = "colour-overlay"
    M_MODE = "m-mode"
    SPECTRAL = "spectral"
    THREE_D = "three-d"
    GRAPHICS_ONLY = "graphics-only"
    NO_BMODE = "no-bmode"
    NO_SIGNAL = "no-signal"
    TOO_SMALL = "too-small"
    TOO_LARGE = "too-large"
    PIXELS_UNREADABLE = "pixels-unreadable"
    UNFAMILIAR = "unfamiliar"

    @property
    def sentence(self) -> str:
        """What the code means and what an administrator can do, without the facts of the case."""
        return _SENTENCES[self]


_SENTENCES: dict[SkipCode, str] = {
    SkipCode.OWN_RESULT: (
        "This is a result of this product coming back. Nothing to do; an archive rule that leaves out "
        "Secondary Capture would save the traffic."
    ),
    SkipCode.SYNTHETIC: (
        "The image is synthetic, made by other equipment. What is synthetic never goes through the model: "
        "the result would look like a finding. Send the image that the scanner made."
    ),
    SkipCode.NOT_ULTRASOUND: (
        "The object is not an ultrasound image. Nothing to do, or narrow what the archive sends here."
    ),
    SkipCode.NOT_THIS_ROUTE: (
        "No route of the called AE title takes this image. If it should, change the match of a route."
    ),
    SkipCode.DOPPLER: (
        "The frame shows colour flow. Send the B-mode image of the same view if a result is wanted."
    ),
    SkipCode.ELASTOGRAPHY: (
        "The frame already shows an elastogram. A measured one is never replaced by a synthetic one."
    ),
    SkipCode.COLOUR_OVERLAY: (
        "The B-mode area is coloured: flow, an elastogram or a tinted grey scale, which pixels alone do not "
        "tell for certain. Send an untinted B-mode image if a result is wanted."
    ),
    SkipCode.M_MODE: "The image is an M-mode trace. Nothing to do.",
    SkipCode.SPECTRAL: "The image is a spectral Doppler trace. Nothing to do.",
    SkipCode.THREE_D: "The image is a rendering of a volume. Nothing to do.",
    SkipCode.GRAPHICS_ONLY: "The image holds graphics and no tissue, such as a report page. Nothing to do.",
    SkipCode.NO_BMODE: (
        "No B-mode area was found. If the picture shows one, the scanner should export its regions "
        "(Sequence of Ultrasound Regions)."
    ),
    SkipCode.NO_SIGNAL: "The B-mode area is nearly black or flat: no tissue in contact with the probe.",
    SkipCode.TOO_SMALL: (
        f"The B-mode area has a side under {MIN_SIDE} pixels. Have the scanner or archive send full images, "
        "not thumbnails."
    ),
    SkipCode.TOO_LARGE: (
        "The object claims more than this node is set to decode. If it is sound, raise "
        "limits.decoded_megapixels, limits.frames or limits.total_megapixels, and send it again."
    ),
    SkipCode.UNFAMILIAR: (
        "The picture does not look like the breast B-mode that the model learnt from, so what it would draw "
        "means nothing. Nothing to do if it shows something else. If breast images of a scanner often end "
        "here, use a bundle fitted on stills of that scanner, or set inference.unfamiliar to mark."
    ),
    SkipCode.PIXELS_UNREADABLE: (
        "The pixels cannot be decoded. Send the image again, uncompressed if the archive can."
    ),
}


@dataclass(frozen=True, slots=True)
class Skip:
    """An image that gets no result, and why."""

    code: SkipCode
    facts: str
    """What was seen or measured in this image; no patient data."""

    @property
    def sentence(self) -> str:
        """The facts, then what the code means and what can be done."""
        return f"{self.facts}. {self.code.sentence}"
