"""Breast phantoms: layers of skin, fat, gland and muscle with at most one lesion, from a seed."""

from dataclasses import dataclass

import cv2
import numpy as np

from training.simulator import tissue
from training.simulator.lesion import Lesion, draw_kind, draw_lesion, stiffen
from training.simulator.noise import Field, random_curve, random_field, smooth, soft_step

ROWS = 224
"""Rows of the phantom grid and of the B-mode made from it."""

SIDE_MARGIN = 0.2
"""Tissue beyond each side of the view, relative to its width: the sides of the finite
element model are free, and must not be seen."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """Tissue maps, each (ROWS, columns), wider than the view by `margin` pixels on both sides."""

    stiffness: Field
    """Young's modulus against fat."""
    echo_db: Field
    attenuation: Field
    """dB / (cm MHz), one way."""
    lesion: Lesion | None
    spacing_mm: float
    margin: int
    depth_mm: float


class _Canvas:
    """Paints tissues one over the other with soft edges."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int]) -> None:
        self.rng = rng
        self.log_stiffness = np.zeros(shape)
        self.echo_db = np.zeros(shape)
        self.attenuation = np.zeros(shape)

    def paint(self, where: Field, kind: tissue.Tissue, echo_texture: Field | float = 0.0) -> None:
        """Blend one tissue in; `where` in [0, 1]."""
        level = draw_log_stiffness(self.rng, kind)
        echo = kind.echo_db + self.rng.normal() * 1.5 + echo_texture
        self.log_stiffness += where * (level - self.log_stiffness)
        self.echo_db += where * (echo - self.echo_db)
        self.attenuation += where * (kind.attenuation - self.attenuation)


def draw_log_stiffness(rng: np.random.Generator, kind: tissue.Tissue) -> float:
    """Draw the logarithm of one layer's stiffness against fat."""
    return float(np.log(kind.stiffness) + kind.spread * rng.normal())


def uneven_stiffness(rng: np.random.Generator, log_stiffness: Field, spacing_mm: float) -> Field:
    """Stiffness from a painted map of its logarithm: no layer is even, no border a step."""
    h = spacing_mm
    uneven = log_stiffness + 0.10 * random_field(rng, log_stiffness.shape, 2.5 / h, 3.5 / h)
    return np.asarray(np.exp(smooth(uneven, 0.3 / h, 0.3 / h)))


def draw_phantom(rng: np.random.Generator) -> Phantom:
    """Draw one breast cross-section."""
    depth_mm = rng.uniform(28.0, 48.0)
    width_mm = float(np.clip(depth_mm * rng.uniform(0.95, 1.6), 34.0, 54.0))
    h = depth_mm / ROWS
    margin = round(SIDE_MARGIN * width_mm / h)
    shape = (ROWS, round(width_mm / h) + 2 * margin)
    y = np.broadcast_to((np.arange(ROWS)[:, None] + 0.5) * h, shape)
    x = np.broadcast_to((np.arange(shape[1])[None, :] + 0.5 - shape[1] / 2) * h, shape)

    def curve(level_mm: float, wander_mm: float, length_mm: float) -> Field:
        return level_mm + wander_mm * random_curve(rng, shape[1], length_mm / h)[None, :]

    skin = curve(rng.uniform(1.2, 2.4), 0.1, 8.0)
    muscle = curve(depth_mm * rng.uniform(0.72, 1.1), rng.uniform(0.3, 1.2), 14.0)
    fat_bottom = skin + depth_mm * rng.uniform(0.08, 0.4) + curve(0.0, rng.uniform(0.5, 2.0), 6.0)
    gland_bottom = muscle - rng.uniform(1.0, 4.0) + curve(0.0, 0.6, 8.0)

    canvas = _Canvas(rng, shape)
    lobules = _lobules(rng, shape, h)
    fat_texture = 1.2 * random_field(rng, shape, 1.2 / h, 2.0 / h) + rng.uniform(0.0, 2.0) * lobules
    canvas.paint(np.ones(shape), tissue.FAT, fat_texture)
    canvas.log_stiffness += tissue.LOBULE_SPREAD * lobules
    # Glandular tissue is broken up by fat lobules; the threshold sets how dense the breast is.
    island = random_field(rng, shape, 2.2 / h, 5.0 / h)
    density = rng.uniform(-0.8, 1.8)
    in_gland = soft_step(y - fat_bottom, 0.5) * soft_step(gland_bottom - y, 0.5)
    gland = in_gland * soft_step(island + density, 0.25)
    streaks = _along_layers(rng, shape, h)
    lumps = 2.2 * random_field(rng, shape, 0.5 / h, 1.0 / h)
    canvas.paint(gland, tissue.GLAND, lumps + rng.uniform(0.5, 3.0) * streaks)
    duct_field = random_field(rng, shape, 0.7 / h, 2.6 / h)
    canvas.paint(gland * soft_step(0.13 - np.abs(duct_field), 0.1) * rng.uniform(0.0, 0.8), tissue.DUCT)
    # Cooper's ligaments: level lines of a slanted field, bright and a little stiff, in fat only.
    slanted = random_field(rng, shape, 2.6 / h, 6.0 / h) + rng.normal(0, 0.05) * x
    # They fade in and out: a closed bright loop would be a capsule, which fat lobules lack.
    seen = soft_step(random_field(rng, shape, 2.0 / h, 3.0 / h) - 0.1, 0.6)
    ligament = soft_step(0.06 - np.abs(slanted), 0.05) * seen * (1 - gland) * rng.uniform(0.4, 0.9)
    canvas.paint(ligament, tissue.LIGAMENT)
    septa = soft_step(_along_layers(rng, shape, h) - rng.uniform(1.6, 2.4), 0.3) * rng.uniform(0.2, 0.8)
    canvas.paint(septa, tissue.LIGAMENT)
    fascia = np.exp(-(((y - muscle) / 0.35) ** 2)) * 0.9
    stripes = 5.0 * _along_layers(rng, shape, h)
    canvas.paint(soft_step(y - muscle, 0.3), tissue.MUSCLE, stripes)
    canvas.paint(fascia, tissue.LIGAMENT)
    skin_lines = 4.0 * np.cos(2 * np.pi * np.clip(y / skin, 0, 1.2))
    canvas.paint(soft_step(skin - y, 0.15), tissue.SKIN, skin_lines)

    kinds = draw_kind(rng)
    lesion = None
    if kinds[0] != "none":
        lesion = draw_lesion(
            rng, x, y, kinds=kinds, width_mm=width_mm,
            top_mm=float(skin.mean()) + 2.0,
            bottom_mm=min(float(muscle.mean()), depth_mm) - 1.0,
        )  # fmt: skip
        _add_lesion(rng, canvas, lesion, h)
    return Phantom(
        stiffness=uneven_stiffness(rng, canvas.log_stiffness, h),
        echo_db=canvas.echo_db,
        attenuation=canvas.attenuation,
        lesion=lesion,
        spacing_mm=h,
        margin=margin,
        depth_mm=depth_mm,
    )


def _lobules(rng: np.random.Generator, shape: tuple[int, int], h: float) -> Field:
    """Patches of one value each, zero mean and unit deviation: fat comes in lobules, no two alike."""
    patches = np.zeros(shape)
    for _ in range(4):
        border = random_field(rng, shape, rng.uniform(1.6, 2.6) / h, rng.uniform(2.5, 5.0) / h)
        patches += rng.choice([-1.0, 1.0]) * soft_step(border, 0.1)
    return np.asarray((patches - patches.mean()) / (patches.std() + 1e-9))


def _along_layers(rng: np.random.Generator, shape: tuple[int, int], h: float) -> Field:
    """Thin streaks that follow a common gentle slope, as septa and muscle fibres do."""
    field = random_field(rng, shape, rng.uniform(0.15, 0.3) / h, rng.uniform(2.5, 5.0) / h)
    shift = rng.normal(0, 1.5) * random_curve(rng, shape[1], 10.0 / h) / h
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + shift.astype(np.float32)[None, :]
    columns = np.broadcast_to(np.arange(shape[1], dtype=np.float32)[None, :], shape)
    return np.asarray(cv2.remap(field, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def _add_lesion(rng: np.random.Generator, canvas: _Canvas, lesion: Lesion, h: float) -> None:
    """Put a lesion into the maps: its look inside the outline, its stiffness a little further."""
    look, distance = lesion.look, lesion.distance_mm
    edge_mm = 0.2 if look.spiculation[1] < 0.1 else 0.6
    inside = soft_step(-distance, edge_mm)
    texture = look.texture_db * random_field(rng, distance.shape, 0.6 / h, 0.6 / h)
    rim = np.exp(-(((distance - 0.4) / 0.4) ** 2)) * 0.6
    canvas.echo_db += rim * (tissue.GLAND.echo_db + look.rim_db - canvas.echo_db)
    canvas.echo_db += inside * (tissue.FAT.echo_db + lesion.echo_db + texture - canvas.echo_db)
    attenuation = tissue.GLAND.attenuation + lesion.extra_attenuation
    canvas.attenuation += inside * (attenuation - canvas.attenuation)
    stiffen(canvas.log_stiffness, distance, lesion.stiffness, lesion.overreach_mm, lesion.inner_stiffness)
