"""Why a screen gives no pair: stable codes, and what each means to whoever prepares the data."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a screen is left out; stable names for manifests and tests."""

    UNREADABLE = "unreadable"
    SYNTHETIC = "synthetic"
    NO_GROUP = "no-group"
    NO_PANES = "no-panes"
    NO_OVERLAY = "no-overlay"
    TWO_OVERLAYS = "two-overlays"
    FLOW = "flow"
    NO_BAR = "no-bar"
    BAR_NOT_INVERTIBLE = "bar-not-invertible"
    TOO_SMALL = "too-small"
    TOO_MUCH_MASKED = "too-much-masked"
    BLEND_NOT_LINEAR = "blend-not-linear"
    MISALIGNED = "misaligned"
    SATURATED = "saturated"

    @property
    def sentence(self) -> str:
        """What the code means and what can be done."""
        return _SENTENCES[self]


_SENTENCES: dict[Reason, str] = {
    Reason.UNREADABLE: "The file is no picture and no ultrasound image. Export the screen again.",
    Reason.SYNTHETIC: "The image is synthetic: a model must not learn from a model. Leave it out.",
    Reason.NO_GROUP: "Nothing tells whose image it is, so no split could keep a patient together. "
    "Say by --group which part of the path does.",
    Reason.NO_PANES: "No two panes show the same tissue. Export dual views, or state the panes in "
    "screens.yaml.",
    Reason.NO_OVERLAY: "Both panes are grey. Export the still with the elastogram shown.",
    Reason.TWO_OVERLAYS: "Both panes carry colour, so there is no plain B-mode to learn from.",
    Reason.FLOW: "The colour lies in patches as colour flow does. Export the elastogram.",
    Reason.NO_BAR: "No colour bar was found. Show it on the screen, or name the table by --lut.",
    Reason.BAR_NOT_INVERTIBLE: "The colour bar runs through grey, or twice through one colour, so no colour "
    "gives one strain. Choose a rainbow map on the scanner.",
    Reason.TOO_SMALL: "The overlay is too small for a pair. Use a larger region of interest.",
    Reason.TOO_MUCH_MASKED: "Too many colours of the overlay are not the bar's: text, marks, holes, or "
    "another table. Check --lut, and the bar in the contact sheet.",
    Reason.BLEND_NOT_LINEAR: "Colour and B-mode are not mixed in fixed shares. Choose a plain translucent "
    "overlay on the scanner, or one without transparency.",
    Reason.MISALIGNED: "The two panes do not show the same tissue at the same place.",
    Reason.SATURATED: "Too much of the strain lies at the ends of the bar. Choose a wider range on the "
    "scanner.",
}


@dataclass(frozen=True)
class Rejection:
    """A screen that gives no pair."""

    reason: Reason
    fact: str
    """The case in figures; nothing of the patient, no path."""
