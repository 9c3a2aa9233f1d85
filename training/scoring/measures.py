"""The table of measures, and one map measured against the truth by all of them."""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from model.colormap import ColorMap, get_colormap, overlay
from model.generator import GeneratorSpec
from training.pairs.pair import Pair
from training.scoring.clinical import Clinical, read
from training.scoring.regions import LesionRegions, Map, lesion_regions
from training.scoring.scores import gradient_similarity, mae, ncc, ncc_shifted, psnr, ssim

MISSING = float("nan")


@dataclass(frozen=True)
class Measure:
    """One column of every evaluation."""

    label: str
    better: Literal["more", "less"]
    range: str
    headline: bool = False
    """Shown in the table of the terminal; all are in the JSON."""


MEASURES = {
    "ncc": Measure("NCC, whole image", "more", "-1 to 1", True),
    "ncc_lesion_box": Measure("NCC, lesion box", "more", "-1 to 1", True),
    "ncc_lesion_ring": Measure("NCC, lesion and ring", "more", "-1 to 1"),
    "ncc_shifted": Measure("NCC, best shift <= 8 px", "more", "-1 to 1"),
    "ssim": Measure("SSIM", "more", "-1 to 1", True),
    "psnr": Measure("PSNR, dB", "more", "0 to 100", True),
    "mae": Measure("mean error", "less", "0 to 1", True),
    "mae_lesion_box": Measure("mean error, lesion box", "less", "0 to 1"),
    "gradient_similarity": Measure("gradient similarity", "more", "0 to 1", True),
    "luma_ncc": Measure("luma NCC, whole image", "more", "-1 to 1"),
    "luma_ncc_lesion_box": Measure("luma NCC, lesion box", "more", "-1 to 1"),
    "luma_ssim": Measure("luma SSIM", "more", "-1 to 1"),
    "luma_psnr": Measure("luma PSNR, dB", "more", "0 to 100"),
    "luma_mae": Measure("luma mean error", "less", "0 to 1"),
    "contrast_sign": Measure("harder/softer right", "more", "0 or 1", True),
    "strain_ratio_error": Measure("strain ratio error, |ln|", "less", "0 and up", True),
    "eb_ratio_error": Measure("E/B ratio error", "less", "0 and up", True),
    "eb_side": Measure("E/B side of 1 right", "more", "0 or 1"),
    "tsukuba_exact": Measure("Tsukuba the same", "more", "0 or 1", True),
    "tsukuba_within_one": Measure("Tsukuba within one", "more", "0 or 1"),
}
"""What each means is written for people in docs/training.md. Luma: of the colour E-mode, BT.601."""


@dataclass(frozen=True, eq=False)
class Palette:
    """How a bundle paints strain, so that the truth can be painted alike."""

    colormap: ColorMap
    alpha: float

    @classmethod
    def of(cls, spec: GeneratorSpec) -> "Palette":
        return cls(get_colormap(spec.colormap, spec.colormap_version), spec.alpha)

    def paint(self, strain: Map, bmode: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return overlay(strain, bmode, self.colormap, self.alpha)


def luma(rgb: NDArray[np.uint8]) -> Map:
    """Brightness of a colour picture by ITU-R BT.601: float32 (H, W) in [0, 1]."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) / np.float32(255), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Truth:
    """A pair made ready to measure maps against: what all of them share is computed once."""

    pair: Pair
    luma: Map
    regions: LesionRegions | None
    clinical: Clinical | None

    @classmethod
    def of(cls, pair: Pair, palette: Palette) -> "Truth":
        regions = None if pair.mask is None else lesion_regions(pair.mask, pair.spacing_mm)
        clinical = None if regions is None else read(pair.strain, regions)
        return cls(pair, luma(palette.paint(pair.strain, pair.bmode)), regions, clinical)


@dataclass(frozen=True, eq=False)
class Measured:
    """One map measured: every key of MEASURES, NaN where it does not apply; and its clinical reading."""

    values: dict[str, float]
    clinical: Clinical | None


def measure(strain: Map, colour_luma: Map, truth: Truth) -> Measured:
    """Measure a strain map (H, W), and the luma of its colour picture, against the truth."""
    target = truth.pair.strain
    values = dict.fromkeys(MEASURES, MISSING)
    values |= {
        "ncc": ncc(strain, target),
        "ncc_shifted": ncc_shifted(strain, target),
        "ssim": ssim(strain, target),
        "psnr": psnr(strain, target),
        "mae": mae(strain, target),
        "gradient_similarity": gradient_similarity(strain, target),
        "luma_ncc": ncc(colour_luma, truth.luma),
        "luma_ssim": ssim(colour_luma, truth.luma),
        "luma_psnr": psnr(colour_luma, truth.luma),
        "luma_mae": mae(colour_luma, truth.luma),
    }
    regions, true = truth.regions, truth.clinical
    if regions is None or true is None:
        return Measured(values, None)
    box, around = regions.box, regions.lesion | regions.ring
    made = read(strain, regions)
    values |= {
        "ncc_lesion_box": ncc(strain[box], target[box]),
        "ncc_lesion_ring": ncc(strain[around], target[around]),
        "mae_lesion_box": mae(strain[box], target[box]),
        "luma_ncc_lesion_box": ncc(colour_luma[box], truth.luma[box]),
        "contrast_sign": float((made.contrast > 0) == (true.contrast > 0)),
        "eb_ratio_error": abs(made.eb_ratio - true.eb_ratio),
        "eb_side": float((made.eb_ratio >= 1) == (true.eb_ratio >= 1)),
        "tsukuba_exact": float(made.tsukuba == true.tsukuba),
        "tsukuba_within_one": float(abs(made.tsukuba - true.tsukuba) <= 1),
    }
    if not made.strain_ratio.bound and not true.strain_ratio.bound:
        values["strain_ratio_error"] = abs(math.log(made.strain_ratio.value / true.strain_ratio.value))
    return Measured(values, made)
