"""What tissues and lesions are made of: stiffness, echo and attenuation, with their sources.

Set from the literature before training and not tuned to results. Stiffness is a ratio to
fat: Samani 2007 (10.1088/0031-9155/52/6/002), Krouskop 1998 (PMID 10197347); attenuation
from the tables in PMC5087608 and PMC10346919. Spreads and echo levels are our choices.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """One normal tissue; `stiffness` is a median, drawn log-normally with `spread`."""

    stiffness: float
    spread: float
    echo_db: float
    attenuation: float
    """dB / (cm MHz), one way."""


SKIN = Tissue(stiffness=12.0, spread=0.3, echo_db=9.0, attenuation=0.9)
FAT = Tissue(stiffness=1.0, spread=0.1, echo_db=-5.5, attenuation=0.60)
LIGAMENT = Tissue(stiffness=5.0, spread=0.35, echo_db=8.0, attenuation=0.9)
GLAND = Tissue(stiffness=1.7, spread=0.3, echo_db=3.5, attenuation=0.75)
DUCT = Tissue(stiffness=1.2, spread=0.2, echo_db=-5.0, attenuation=0.70)
MUSCLE = Tissue(stiffness=5.0, spread=0.35, echo_db=-4.0, attenuation=1.0)

LOBULE_SPREAD = 0.15
"""Deviation of the logarithm of stiffness between the lobules of one breast's fat."""


@dataclass(frozen=True)
class LesionLook:
    """How a kind of lesion shows on B-mode; pairs are uniform ranges."""

    echo_db: tuple[float, float]
    """Relative to subcutaneous fat, as echo patterns are described: most solid lesions are darker."""
    texture_db: float
    extra_attenuation: tuple[float, float]
    """dB / (cm MHz) above gland: positive casts a shadow, negative enhances."""
    elongation: tuple[float, float]
    """Height over width: above 1 is taller than wide."""
    spiculation: tuple[float, float]
    """Deviation of the outline, relative to its radius."""
    rim_db: float
    """Echo of the rim (capsule or halo) above gland."""


@dataclass(frozen=True)
class LesionStiffness:
    """Young's modulus against fat, log-normal; and how far stiffness passes the B-mode border."""

    median: float
    spread: float
    overreach_mm: tuple[float, float]


LOOKS = {
    "benign": LesionLook((-11.0, -2.0), 1.5, (-0.35, 0.1), (0.45, 0.8), (0.02, 0.07), 3.0),
    "malignant": LesionLook((-15.0, -4.0), 4.0, (0.2, 1.2), (0.7, 1.4), (0.12, 0.3), 2.0),
    "cyst": LesionLook((-36.0, -22.0), 0.5, (-0.75, -0.45), (0.55, 0.95), (0.01, 0.05), 4.0),
    "lipoma": LesionLook((-2.0, 4.0), 2.0, (-0.2, 0.0), (0.3, 0.55), (0.02, 0.05), 4.0),
    "isoechoic": LesionLook((-2.0, 4.0), 2.5, (-0.1, 0.4), (0.5, 1.1), (0.05, 0.2), 1.0),
}

STIFFNESSES = {
    "benign": LesionStiffness(2.6, 0.35, (0.0, 0.3)),
    "malignant": LesionStiffness(9.0, 0.45, (1.0, 3.0)),
    "cyst": LesionStiffness(0.6, 0.3, (0.0, 0.0)),
    "lipoma": LesionStiffness(0.8, 0.15, (0.0, 0.0)),
    "isoechoic": LesionStiffness(6.0, 0.5, (0.5, 2.0)),
}

KIND_SHARES = {
    "benign": 0.32,
    "malignant": 0.34,
    "cyst": 0.11,
    "lipoma": 0.04,
    "isoechoic": 0.07,
    "none": 0.12,
}

CONTRADICTION_SHARE = 0.15
"""Share of benign- and malignant-looking lesions that have the other kind's stiffness, so
that a network cannot learn "dark is hard" as a certainty."""

BGR_SHARE = 0.5
"""Share of cysts that show the layered blue-green-red artefact instead of soft tissue."""
