"""Breast tissue as geometry: spline layers, Voronoi fat lobules in septa, elliptic gland lobes, ducts."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from training.referee.outlines import Mask, draw_outline
from training.referee.tissue import (
    CONTRADICTION_SHARE,
    DUCT,
    FASCIA,
    FAT,
    GLAND,
    KIND_SHARES,
    LOOKS,
    MUSCLE,
    SEPTUM,
    SKIN,
    STIFFEST,
    STIFFNESS,
    Look,
    Matter,
)

Field = NDArray[np.float64]

STEP_MM = 0.12
"""Grid of the layout."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Tissue on a grid wider and deeper than the image; all arrays (H, W), STEP_MM apart."""

    x: Field
    """(W,) mm, 0 in the middle of the image."""
    z: Field
    """(H,) mm below the probe."""
    width_mm: float
    depth_mm: float
    """Of the image."""
    stiffness: Field
    """Ratio to fat."""
    echo_db: Field
    """Relative to fat."""
    attenuation: Field
    """dB / (cm MHz), one way."""
    scatterers: Field
    """Per mm²."""
    clumping: Field
    """How unevenly scatterers are spread, 0 to 1."""
    surface: Field
    """Strength of flat reflectors, 0 for none."""
    mask: Mask
    """The lesion as B-mode shows it."""
    info: dict[str, Any]

    def at(self, field: Field, x: Field, z: Field) -> Field:
        """Look a field up at points in mm; outside, the nearest value inside."""
        column = np.clip(np.rint((x - self.x[0]) / STEP_MM), 0, len(self.x) - 1).astype(np.int64)
        row = np.clip(np.rint((z - self.z[0]) / STEP_MM), 0, len(self.z) - 1).astype(np.int64)
        found: Field = field[row, column]
        return found


class _Canvas:
    """A layout under construction: later tissue covers earlier."""

    def __init__(self, rng: np.random.Generator, x: Field, z: Field) -> None:
        self.rng, self.x, self.z = rng, x, z
        self.grid_x, self.grid_z = np.meshgrid(x, z)
        shape = self.grid_x.shape
        self.stiffness, self.attenuation = np.ones(shape), np.full(shape, 0.6)
        self.echo_db, self.scatterers = np.zeros(shape), np.full(shape, FAT.scatterers)
        self.clumping, self.surface = np.full(shape, 0.6), np.zeros(shape)

    def fill(self, where: Mask, matter: Matter, clumping: float = 0.6) -> None:
        """Make a region one tissue, with one draw of its properties."""
        rng = self.rng
        self.stiffness[where] = matter.stiffness * np.exp(rng.normal(0.0, matter.spread))
        self.echo_db[where] = rng.uniform(*matter.echo_db)
        self.attenuation[where] = rng.uniform(*matter.attenuation)
        self.scatterers[where] = matter.scatterers
        self.clumping[where] = clumping

    def stroke(self, points: Field, thickness_mm: float) -> Mask:
        """Rasterise a line through points (N, 2) in mm."""
        canvas = np.zeros(self.grid_x.shape, dtype=np.uint8)
        at = (points - [self.x[0], self.z[0]]) / STEP_MM
        pixels = np.round(at * 16).astype(np.int32)
        cv2.polylines(canvas, [pixels], False, 1, max(1, round(thickness_mm / STEP_MM)), shift=4)
        return canvas.astype(bool)

    def below(self, curve: Field) -> Mask:
        return self.grid_z > curve[None, :]

    def along(self, curve: Field, strength: float) -> None:
        """Make a layer's border a flat reflector."""
        self.surface[np.abs(self.grid_z - curve[None, :]) <= 0.6 * STEP_MM] = strength


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draw one breast; see the module for what it is made of."""
    depth, width = rng.uniform(24.0, 48.0), rng.uniform(28.0, 52.0)
    pad, behind = rng.uniform(8.0, 14.0), rng.uniform(0.0, 12.0)
    x = np.arange(-width / 2 - pad, width / 2 + pad, STEP_MM)
    z = np.arange(0.0, depth + behind, STEP_MM)
    canvas = _Canvas(rng, x, z)
    skin = np.clip(_spline(rng, x, rng.uniform(1.0, 2.4), 0.15), 0.7, None)
    gland_top = skin + np.clip(_spline(rng, x, rng.uniform(0.12, 0.38) * depth, 0.07 * depth), 2.0, None)
    muscle_top = np.clip(_spline(rng, x, rng.uniform(0.72, 1.05) * depth, 0.04 * depth), gland_top + 4, None)
    gland_end = muscle_top - np.clip(_spline(rng, x, rng.uniform(1.5, 6.0), 1.0), 0.8, None)

    _fat(canvas)
    _gland(canvas, gland_top, gland_end, depth, width)
    _ligaments(canvas, skin, gland_top, width)
    _muscle(canvas, muscle_top)
    canvas.fill(~canvas.below(skin), SKIN, clumping=0.2)
    canvas.along(skin, 0.5)
    mask, info = _lesion(canvas, skin, muscle_top, depth, width)
    return Layout(
        x, z, width, depth, canvas.stiffness, canvas.echo_db, canvas.attenuation, canvas.scatterers,
        canvas.clumping, canvas.surface, mask, info,
    )  # fmt: skip


def draw_kind(rng: np.random.Generator) -> tuple[str, str]:
    """Draw how a lesion looks and as what kind it is stiff; ("none", "none") without one."""
    kinds = list(KIND_SHARES)
    look = kinds[int(rng.choice(len(kinds), p=list(KIND_SHARES.values())))]
    contradicts = rng.random() < CONTRADICTION_SHARE
    firm = "malignant" if rng.random() < 0.4 else "benign"
    if look == "none":
        return look, look
    if look == "isoechoic":
        return look, firm
    if not contradicts:
        return look, look
    return look, "malignant" if look == "benign" else "benign"


def _spline(rng: np.random.Generator, x: Field, mean: float, sway: float) -> Field:
    """A smooth curve over the width through a few random knots."""
    knots = np.linspace(x[0], x[-1], int(rng.integers(4, 8)))
    curve: Field = CubicSpline(knots, mean + sway * rng.normal(size=len(knots)))(x)
    return curve


def _fat(canvas: _Canvas) -> None:
    """Everything begins as fat: lobules are Voronoi cells of a bent plane, their septa its borders."""
    rng, x, z = canvas.rng, canvas.grid_x, canvas.grid_z
    spacing, stretch = rng.uniform(4.0, 9.0), rng.uniform(1.2, 2.2)
    bends = [(rng.uniform(0.15, 0.5), rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.1)) for _ in range(4)]
    u = x / stretch + sum(a * np.sin(k * z + p) for k, p, a in bends[:2])
    v = z + sum(a * np.sin(k * x / stretch + p) for k, p, a in bends[2:])
    lows, highs = (u.min() - spacing, v.min() - spacing), (u.max() + spacing, v.max() + spacing)
    number = int(np.prod(np.subtract(highs, lows)) / spacing**2) + 4
    seeds = rng.uniform(lows, highs, (number, 2))
    apart, cell = cKDTree(seeds).query(np.stack([u.ravel(), v.ravel()], axis=1), k=2)
    between = np.linalg.norm(seeds[cell[:, 0]] - seeds[cell[:, 1]], axis=1)
    border = ((apart[:, 1] ** 2 - apart[:, 0] ** 2) / (2 * between)).reshape(x.shape)
    lobule = cell[:, 0].reshape(x.shape)
    canvas.stiffness[:] = np.exp(rng.normal(0.0, FAT.spread, number))[lobule]
    canvas.echo_db[:] = rng.uniform(*FAT.echo_db, number)[lobule]
    canvas.attenuation[:] = rng.uniform(*FAT.attenuation)
    # Some borders are too thin to be seen.
    visible = (rng.random(number) < 0.75)[lobule]
    canvas.fill((border < rng.uniform(0.10, 0.22)) & visible, SEPTUM)


def _gland(canvas: _Canvas, top: Field, end: Field, depth: float, width: float) -> None:
    """Lobes of gland as overlapping ellipses in fat, from fatty to dense breasts, with ducts."""
    rng, x, z = canvas.rng, canvas.grid_x, canvas.grid_z
    zone = canvas.below(top) & ~canvas.below(end)
    lobes = np.zeros(zone.shape, dtype=bool)
    dense = rng.random() < 0.35
    if dense:
        lobes |= zone
    for _ in range(int(rng.integers(1, 9))):
        centre = rng.uniform(-0.7 * width, 0.7 * width)
        i = int(np.argmin(np.abs(canvas.x - centre)))
        middle = rng.uniform(top[i], max(end[i], top[i] + 1.0))
        radius_x, radius_z = rng.uniform(4.0, 14.0), rng.uniform(2.5, 8.0)
        ellipse = ((x - centre) / radius_x) ** 2 + ((z - middle) / radius_z) ** 2 < 1
        if dense:
            # In a dense breast the ellipses are islands of fat.
            if radius_x < 8.0:
                lobes &= ~ellipse
        else:
            lobes |= ellipse & zone
            canvas.fill(ellipse & zone, GLAND, clumping=float(rng.uniform(0.3, 0.9)))
    if dense:
        canvas.fill(lobes, GLAND, clumping=float(rng.uniform(0.3, 0.9)))
    nipple = np.array([rng.uniform(-0.6, 0.6) * width, rng.uniform(0.0, 0.2) * depth])
    for _ in range(int(rng.integers(2, 9))):
        far = np.array([rng.uniform(-0.9, 0.9) * width, rng.uniform(0.3, 0.9) * depth])
        via = (nipple + far) / 2 + rng.normal(0.0, 3.0, 2)
        duct = canvas.stroke(_bent(nipple, via, far), rng.uniform(0.25, 0.8))
        canvas.fill(duct & lobes, DUCT)


def _bent(start: Field, via: Field, end: Field) -> Field:
    """A quadratic Bézier curve as points (N, 2)."""
    t = np.linspace(0.0, 1.0, 24)[:, None]
    points: Field = (1 - t) ** 2 * start + 2 * t * (1 - t) * via + t**2 * end
    return points


def _ligaments(canvas: _Canvas, skin: Field, top: Field, width: float) -> None:
    """Cooper's ligaments: arcs from the gland's surface up to the skin."""
    rng = canvas.rng
    for _ in range(int(rng.integers(2, 7))):
        foot, head = rng.uniform(-0.6, 0.6) * width + np.array([0.0, rng.normal(0.0, 5.0)])
        i, j = (int(np.argmin(np.abs(canvas.x - at))) for at in (foot, head))
        start, end = np.array([foot, top[i]]), np.array([head, skin[j]])
        via = (start + end) / 2 + rng.normal(0.0, 2.0, 2)
        canvas.fill(canvas.stroke(_bent(start, via, end), rng.uniform(0.2, 0.5)), SEPTUM)


def _muscle(canvas: _Canvas, top: Field) -> None:
    """The chest wall: muscle under a fascia, with fibres that run along it."""
    rng = canvas.rng
    canvas.fill(canvas.below(top), MUSCLE, clumping=0.4)
    stiffness = canvas.stiffness.copy()
    for _ in range(int(rng.integers(8, 30))):
        start, length = rng.uniform(canvas.x[0], canvas.x[-1]), rng.uniform(4.0, 15.0)
        along = (canvas.x > start) & (canvas.x < start + length)
        curve = top[along] + rng.uniform(0.8, 14.0) + rng.normal(0.0, 0.04) * (canvas.x[along] - start)
        if along.sum() > 2:
            fibre = canvas.stroke(np.stack([canvas.x[along], curve], axis=1), 0.15)
            canvas.fill(fibre & canvas.below(top), SEPTUM)
    canvas.stiffness = stiffness  # a fibre's echo, the whole muscle's stiffness
    thick = rng.uniform(0.3, 0.9)
    canvas.fill(np.abs(canvas.grid_z - top[None, :]) < thick / 2, FASCIA)
    canvas.along(top - thick / 2, rng.uniform(0.3, 1.0))


def _lesion(
    canvas: _Canvas, skin: Field, muscle_top: Field, depth: float, width: float
) -> tuple[Mask, dict[str, Any]]:
    """Put the lesion, if there is one, where breast tissue is."""
    rng = canvas.rng
    kind, stiff_as = draw_kind(rng)
    info: dict[str, Any] = {"kind": kind}
    if kind == "none":
        return np.zeros(canvas.grid_x.shape, dtype=bool), info
    look = LOOKS[kind]
    diameter = min(rng.uniform(*look.diameter_mm), 0.45 * depth, 0.4 * width)
    ratio = rng.uniform(*look.elongation)
    high, wide = diameter * np.sqrt(ratio), diameter / np.sqrt(ratio)
    centre_x = rng.uniform(-0.28, 0.28) * width
    i = int(np.argmin(np.abs(canvas.x - centre_x)))
    highest = skin[i] + 0.5 * high + 1.0
    centre_z = rng.uniform(highest, max(highest, min(muscle_top[i], 0.9 * depth) - 0.45 * high))
    form = look.forms[int(rng.integers(len(look.forms)))]
    x, z = canvas.grid_x - centre_x, canvas.grid_z - centre_z
    whole, body = draw_outline(form, rng, x, z, wide, high)
    whole &= canvas.below(skin)
    body &= whole

    median, spread = STIFFNESS[stiff_as]
    stiffness = min(median * np.exp(rng.normal(0.0, spread)), STIFFEST)
    beyond = rng.uniform(0.3, 2.5) if stiff_as == "malignant" else 0.0
    _harden(canvas, whole, body, stiffness, beyond)
    _show(canvas, look, whole, body)
    info.update(
        stiffness_kind=stiff_as, stiffness=round(float(stiffness), 3), form=form,
        contradicts=stiff_as != kind and kind != "isoechoic",
    )  # fmt: skip
    return whole, info


def _harden(canvas: _Canvas, whole: Mask, body: Mask, stiffness: float, beyond: float) -> None:
    """Give a lesion its stiffness.

    A cancer's reaches into what looks healthy: it measures larger on strain (Barr 2019, 10.1002/jum.14849).
    """
    rng = canvas.rng
    outside = distance_transform_edt(~body) * STEP_MM
    if beyond:
        fading = np.clip(1 - outside / beyond, 0.0, 1.0)
        canvas.stiffness *= (np.maximum(stiffness, canvas.stiffness) / canvas.stiffness) ** fading
    canvas.stiffness[whole] = stiffness
    if stiffness > 3 and rng.random() < 0.4:
        # Uneven inside: a softer part, as where a cancer decays.
        rows, columns = np.nonzero(body)
        pick = int(rng.integers(len(rows)))
        away = np.hypot(canvas.grid_x - canvas.x[columns[pick]], canvas.grid_z - canvas.z[rows[pick]])
        canvas.stiffness[body & (away < rng.uniform(1.0, 3.0))] = stiffness * rng.uniform(0.4, 0.8)


def _show(canvas: _Canvas, look: Look, whole: Mask, body: Mask) -> None:
    """Give a lesion its echo, its shadow or enhancement, and its rim."""
    rng = canvas.rng
    isoechoic = look is LOOKS["isoechoic"]
    around = float(np.median(canvas.echo_db[whole])) if isoechoic else 0.0
    canvas.echo_db[whole] = around + rng.uniform(*look.echo_db)
    canvas.scatterers[whole] = look.scatterers
    canvas.clumping[whole] = rng.uniform(0.0, 0.35) if look.even else rng.uniform(0.4, 0.9)
    canvas.attenuation[whole] = max(0.0, rng.uniform(*GLAND.attenuation) + rng.uniform(*look.excess))
    canvas.surface[whole] = 0.0
    outside, inside = (distance_transform_edt(m) * STEP_MM for m in (~body, body))
    signed = outside - inside
    down, across = np.gradient(signed, STEP_MM)
    if look.even:
        # Smooth borders reflect where they face the probe, and refract where they run along the beam.
        rim = np.abs(signed) < 0.09
        canvas.surface[rim] = rng.uniform(0.05, 0.4) * np.abs(down[rim]) ** 4
        canvas.attenuation[(np.abs(signed) < 0.35) & (np.abs(across) > 0.93)] += rng.uniform(0.0, 2.5)
    if rng.random() < look.halo:
        canvas.echo_db[(outside > 0) & (outside < rng.uniform(0.8, 2.5)) & ~whole] += rng.uniform(2.0, 6.0)
    if not look.even and rng.random() < 0.3:
        rows, columns = np.nonzero(body)
        for pick in rng.integers(len(rows), size=int(rng.integers(3, 15))):
            canvas.surface[rows[pick], columns[pick]] = rng.uniform(0.5, 2.0)
