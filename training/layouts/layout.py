"""A tissue map over a still: its layers, gland where it is bright, a lesion as stiff as its label may be."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.layouts.evidence import Evidence
from training.layouts.layers import Layers, draw_layers
from training.pairs.stills import Label
from training.simulator import tissue
from training.simulator.anatomy import ROWS, SIDE_MARGIN, draw_log_stiffness, uneven_stiffness
from training.simulator.lesion import draw_inner_stiffness, draw_stiffness, draw_stiffness_kind, stiffen
from training.simulator.noise import Field, random_field, soft_step

CYST_SHARE = 0.5
"""Share of draws in which a benign lesion that looks like fluid is a cyst: its label says benign alone, and
inspissated cysts and very dark fibroadenomas look the same and are as stiff as other benign lesions."""

BRIGHTNESS_WEIGHT = 0.8
"""How far the brightness of the picture, and not chance, says where in the gland its fat lobules are."""


@dataclass(frozen=True)
class DrawnLesion:
    """What was drawn for the lesion of a still."""

    kind: str
    """What it is taken to look like: benign, malignant or cyst."""
    stiffness_kind: str
    stiffness: float
    """Young's modulus against fat."""
    bgr: bool
    """It shows the layered blue-green-red artefact of fluid."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A stiffness map (ROWS, columns), wider than the still by `margin` pixels on both sides."""

    stiffness: Field
    """Young's modulus against fat."""
    margin: int
    spacing_mm: float
    layers: Layers
    """Within the still."""
    lesion: DrawnLesion | None
    layered: NDArray[np.bool_] | None
    """The fluid with the artefact, in the shape of `stiffness`."""


def draw_layout(rng: np.random.Generator, evidence: Evidence, label: Label) -> Layout:
    """Draw one tissue map of a still; the picture is never touched."""
    h = evidence.spacing_mm
    margin = round(SIDE_MARGIN * evidence.columns)

    def padded(field: Field) -> Field:
        return np.pad(field, [(0, 0)] * (field.ndim - 1) + [(margin, margin)], mode="reflect")

    layers = draw_layers(rng, evidence)
    skin, fat, muscle = (padded(border)[None, :] for border in (layers.skin, layers.fat, layers.muscle))
    shape = (ROWS, evidence.columns + 2 * margin)
    y = (np.arange(ROWS)[:, None] + 0.5) * h
    log_stiffness = np.zeros(shape)

    def paint(where: Field, kind: tissue.Tissue) -> None:
        nonlocal log_stiffness
        log_stiffness = log_stiffness + where * (draw_log_stiffness(rng, kind) - log_stiffness)

    paint(np.ones(shape), tissue.FAT)
    in_gland = soft_step(y - fat, 0.5) * soft_step(muscle - rng.uniform(1.0, 4.0) - y, 0.5)
    chance = random_field(rng, shape, 2.2 / h, 5.0 / h)
    island = BRIGHTNESS_WEIGHT * padded(evidence.local_brightness)
    island = island + np.sqrt(1 - BRIGHTNESS_WEIGHT**2) * chance
    gland = in_gland * soft_step(island + rng.uniform(-0.8, 1.8), 0.25)
    paint(gland, tissue.GLAND)
    septa = soft_step(padded(evidence.septa) - rng.uniform(1.5, 2.5), 0.5) * (1 - gland)
    paint(septa * rng.uniform(0.2, 0.8), tissue.LIGAMENT)
    paint(soft_step(y - muscle, 0.3), tissue.MUSCLE)
    paint(np.exp(-(((y - muscle) / 0.35) ** 2)) * 0.9, tissue.LIGAMENT)
    paint(soft_step(skin - y, 0.15), tissue.SKIN)

    lesion, layered = None, None
    if evidence.mask.any():
        mask = np.pad(evidence.mask, [(0, 0), (margin, margin)], mode="reflect")
        lesion = draw_lesion(rng, label, evidence.fluid)
        inner = draw_inner_stiffness(rng, shape, h)
        overreach = rng.uniform(*tissue.STIFFNESSES[lesion.stiffness_kind].overreach_mm)
        stiffen(log_stiffness, signed_distance(mask) * h, lesion.stiffness, overreach, inner)
        layered = mask if lesion.bgr else None
    return Layout(uneven_stiffness(rng, log_stiffness, h), margin, h, layers, lesion, layered)


def draw_lesion(rng: np.random.Generator, label: Label, fluid: bool) -> DrawnLesion:
    """Draw what the lesion of a still may be, by its label; `fluid` says that it looks like fluid."""
    cyst = rng.random() < CYST_SHARE
    # A lesion outlined in a still that is labelled normal can only be a benign one.
    kind = "malignant" if label == "malignant" else "cyst" if fluid and cyst else "benign"
    stiffness_kind = draw_stiffness_kind(rng, kind)
    stiffness = draw_stiffness(rng, tissue.STIFFNESSES[stiffness_kind])
    bgr = rng.random() < tissue.BGR_SHARE
    return DrawnLesion(kind, stiffness_kind, stiffness, kind == "cyst" and bgr)


def signed_distance(mask: NDArray[np.bool_]) -> Field:
    """Distance to the border of a mask in pixels, negative inside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(mask, 0.5 - inside.astype(np.float64), outside.astype(np.float64) - 0.5)
