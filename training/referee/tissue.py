"""What the referee's tissues are made of, with sources; chosen once, before any model was judged by it.

Stiffness is a ratio to fat: Samani 2007 (10.1088/0031-9155/52/6/002) has fat and gland alike,
fibroadenoma about 2, carcinoma 3 to 6 and high grade up to 13; Krouskop 1998 (PMID 10197347) has gland
and fibrous tissue rise well above fat as tissue is compressed, so gland spreads wide here. Skin over
fat: in-vivo suction, about 18, of which the low end is taken because skin under gel is not stretched.
Attenuation: PMC5087608 (fat .60, parenchyma .75, malignant .57, cyst .002 dB/MHz/cm) and PMC10346919
(fat .8, muscle 1.2). Those find no more attenuation in cancers than around them, yet many cast a
shadow: the excess ranges here are ours. Echo levels and scatterer numbers are ours too.
"""

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Matter:
    """One tissue; ranges are uniform, stiffness is log-normal about a median."""

    stiffness: float
    spread: float
    """Standard deviation of the logarithm of stiffness."""
    echo_db: Range
    """Mean echo relative to fat."""
    attenuation: Range
    """dB / (cm MHz), one way."""
    scatterers: float
    """Per mm²; a resolution cell has about 0.15 mm², so under 60 speckle is not fully developed."""


SKIN = Matter(13.0, 0.25, (6.0, 10.0), (0.8, 1.2), 60.0)
FAT = Matter(1.0, 0.18, (-1.5, 1.5), (0.5, 0.8), 22.0)
SEPTUM = Matter(5.0, 0.4, (6.0, 11.0), (0.7, 1.0), 50.0)
GLAND = Matter(1.9, 0.4, (6.0, 11.0), (0.6, 0.9), 55.0)
DUCT = Matter(1.3, 0.3, (-4.0, 3.0), (0.5, 0.8), 25.0)
FASCIA = Matter(8.0, 0.4, (9.0, 14.0), (0.8, 1.1), 60.0)
MUSCLE = Matter(4.0, 0.4, (-3.0, 3.0), (0.9, 1.3), 30.0)


@dataclass(frozen=True)
class Look:
    """How a kind of lesion shows on B-mode."""

    echo_db: Range
    """Relative to fat; of an isoechoic lesion, relative to what it lies in."""
    excess: Range
    """Attenuation above gland, dB / (cm MHz)."""
    diameter_mm: Range
    elongation: Range
    """Height over width."""
    forms: tuple[str, ...]
    halo: float
    """How many have an echogenic rim."""
    scatterers: float
    even: bool = True
    """Texture is finer and more even than that of breast tissue."""


LOOKS = {
    "benign": Look(
        echo_db=(-9.0, -1.0),
        excess=(-0.35, 0.1),
        diameter_mm=(6.0, 20.0),
        elongation=(0.5, 0.9),
        forms=("superellipse", "lobulated"),
        halo=0.0,
        scatterers=45.0,
    ),
    "malignant": Look(
        echo_db=(-15.0, -6.0),
        excess=(0.0, 1.3),
        diameter_mm=(6.0, 22.0),
        elongation=(0.75, 1.4),
        forms=("star", "star", "polygon"),
        halo=0.5,
        scatterers=30.0,
        even=False,
    ),
    "cyst": Look(
        echo_db=(-45.0, -25.0),
        excess=(-0.75, -0.6),
        diameter_mm=(4.0, 20.0),
        elongation=(0.6, 1.05),
        forms=("superellipse",),
        halo=0.0,
        scatterers=30.0,
    ),
    "fat-like": Look(
        echo_db=(0.0, 6.0),
        excess=(-0.2, 0.1),
        diameter_mm=(7.0, 22.0),
        elongation=(0.4, 0.8),
        forms=("superellipse", "lobulated"),
        halo=0.0,
        scatterers=30.0,
    ),
    "isoechoic": Look(
        echo_db=(-1.5, 1.5),
        excess=(-0.1, 0.3),
        diameter_mm=(6.0, 18.0),
        elongation=(0.55, 1.1),
        forms=("superellipse", "lobulated", "polygon"),
        halo=0.1,
        scatterers=40.0,
    ),
}
"""Stavros 1995 (10.1148/radiology.196.1.7784555) and the BI-RADS lexicon: what is smooth, wide and lobed is
mostly benign; what is angular, spiculated, taller than wide or casts a shadow is suspicious."""

KIND_SHARES = {
    "benign": 0.31,
    "malignant": 0.29,
    "cyst": 0.10,
    "fat-like": 0.08,
    "isoechoic": 0.10,
    "none": 0.12,
}

STIFFNESS = {"benign": (2.2, 0.4), "malignant": (6.5, 0.45), "cyst": (0.3, 0.3), "fat-like": (0.8, 0.2)}
"""Median ratio to fat and spread of the logarithm. A cyst resists a change of volume, but hardly of shape."""

STIFFEST = 16.0
"""No lesion is stiffer."""

CONTRADICTION_SHARE = 0.15
"""How many lesions are not as stiff as their kind: a cancer as soft as benign tissue and the other way
round, a cyst or lipoma that is as firm as a benign tumour. An isoechoic lesion promises nothing, and may
be either."""
