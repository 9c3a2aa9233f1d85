"""What a reader takes from an elastogram: contrast, strain ratio, E/B size ratio, Tsukuba score.

All work on a strain index, 1 is soft, and regions from B-mode. Thresholds are ours where none is
published for maps of this kind; what comes of them is a suggestion from a picture, never a finding.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from training.scoring.regions import LesionRegions, Map, Mask

CLIPPED = 0.995
"""Strain index that counts as clipped: the last two of 256 stored levels."""

CLIPPED_SHARE = 0.05
"""With more of a region clipped than this, its mean strain is only a lower bound."""

SMALLEST = 0.5 / 255
"""Half of a stored level: mean strain below it cannot be told from none."""

FAT_SHARE = 1 / 3
"""Share of the tissue outside the lesion that is taken for fat."""

HARD = 0.5
"""Hard is what strains less than this share of the reference's median."""


@dataclass(frozen=True)
class StrainRatio:
    """Mean strain of the reference over that of the lesion; above 1 the lesion is harder."""

    value: float
    bound: Literal["", ">", "<", "?"]
    """What the true ratio is to the value: "" equal, ">" above, "<" below, "?" either."""


@dataclass(frozen=True)
class Clinical:
    """One reading of one map."""

    contrast: float
    """Mean strain index of the ring less that of the lesion: above 0 the lesion is harder."""
    strain_ratio: StrainRatio
    fat_ratio: StrainRatio
    eb_ratio: float
    """Longest diameter of the lesion in B-mode over which the map is hard: E size over B size."""
    hard_share: float
    """Share of the lesion that is hard."""
    tsukuba: int
    """Suggested Tsukuba score, 1 to 5."""


def read(strain: Map, regions: LesionRegions) -> Clinical:
    """Take all clinical measures of one map (H, W)."""
    hard = hard_map(strain, regions)
    return Clinical(
        contrast(strain, regions),
        strain_ratio(strain, regions),
        fat_ratio(strain, regions),
        eb_ratio(hard, regions),
        float(hard[regions.lesion].mean()),
        tsukuba(hard, regions),
    )


def contrast(strain: Map, regions: LesionRegions) -> float:
    """Mean strain index of the ring less that of the lesion, -1 to 1."""
    return float(strain[regions.ring].mean(dtype=np.float64) - strain[regions.lesion].mean(dtype=np.float64))


def strain_ratio(strain: Map, regions: LesionRegions) -> StrainRatio:
    """Mean strain of the reference over that of the lesion.

    The index is linear in strain until it clips at twice the frame's median. Where more than
    CLIPPED_SHARE of the reference is clipped, or the lesion strains less than can be stored, the value
    is a lower bound; where the lesion itself is clipped, an upper one.
    """
    return _ratio(strain[regions.lesion], strain[regions.reference])


def fat_ratio(strain: Map, regions: LesionRegions) -> StrainRatio:
    """The same against fat, as strain ratios are read in practice (Fischer 2011, PMID 21614749).

    Nobody marked fat here. It is the softest of normal tissue, so the softest third of what lies elsewhere
    in the frame stands for it, at whatever depth.
    """
    elsewhere = strain[regions.elsewhere]
    return _ratio(strain[regions.lesion], elsewhere[elsewhere >= np.quantile(elsewhere, 1 - FAT_SHARE)])


def _ratio(inside: Map, beside: Map) -> StrainRatio:
    lesion, reference = (float(part.mean(dtype=np.float64)) for part in (inside, beside))
    above = float((beside >= CLIPPED).mean()) > CLIPPED_SHARE or lesion < SMALLEST
    below = float((inside >= CLIPPED).mean()) > CLIPPED_SHARE
    bound: Literal["", ">", "<", "?"] = "?" if above and below else ">" if above else "<" if below else ""
    return StrainRatio(max(reference, SMALLEST) / max(lesion, SMALLEST), bound)


def hard_map(strain: Map, regions: LesionRegions) -> Mask:
    """Mark what is hard: below HARD times the reference's median. Bool (H, W)."""
    return np.asarray(strain < HARD * float(np.median(strain[regions.reference])))


def eb_ratio(hard: Mask, regions: LesionRegions) -> float:
    """Size on the elastogram over size in B-mode, along the lesion's longest diameter in B-mode; 0 if none.

    Size on the elastogram is the extent of all connected hard areas that touch the lesion, followed no
    further than one radius from it, as a hard area may join with muscle or skin. Published rule:
    below 1 speaks for benign (Barr 2019, 10.1002/jum.14849).
    """
    _, parts = cv2.connectedComponents((hard & regions.near).astype(np.uint8), connectivity=8)
    touching = np.unique(parts[regions.lesion & hard])
    if not len(touching):
        return 0.0
    axis, length = _longest_diameter(regions.lesion)
    rows, columns = np.nonzero(np.isin(parts, touching))
    along = columns * axis[0] + rows * axis[1]
    return float((along.max() - along.min() + 1.0) / length)


def _longest_diameter(mask: Mask) -> tuple[tuple[float, float], float]:
    """Direction (x, y) and length in pixels of the longest line between two points of a mask."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    hull = cv2.convexHull(points).reshape(-1, 2).astype(np.float64)
    between = hull[:, None] - hull[None]
    lengths = np.hypot(between[..., 0], between[..., 1])
    a, b = np.unravel_index(int(lengths.argmax()), lengths.shape)
    longest = float(lengths[a, b])
    if longest == 0.0:
        return (1.0, 0.0), 1.0
    return (float(between[a, b, 0] / longest), float(between[a, b, 1] / longest)), longest + 1.0


def tsukuba(hard: Mask, regions: LesionRegions) -> int:
    """Suggest a Tsukuba score (Itoh 2006, 10.1148/radiol.2391041676) from shares of hard pixels.

    1 strain in the whole lesion; 2 in most of it; 3 at its periphery only; 4 nowhere in it;
    5 nor in its surroundings. The shares at which one becomes the other are ours.
    """
    lesion, ring, core, periphery = (
        float(hard[part].mean()) if part.any() else 0.0
        for part in (regions.lesion, regions.ring, regions.core, regions.periphery)
    )
    if lesion > 0.9:
        return 5 if ring > 0.5 else 4
    if core > 0.6 and periphery < 0.5:
        return 3
    return 2 if lesion > 0.1 else 1
