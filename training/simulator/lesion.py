"""One simulated lesion: its kind, outline, stiffness and B-mode look."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.simulator import tissue
from training.simulator.noise import Field, random_field, soft_step
from training.simulator.tissue import LesionLook, LesionStiffness


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion on the phantom grid; `distance_mm` is signed, negative inside."""

    look_kind: str
    stiffness_kind: str
    stiffness: float
    overreach_mm: float
    echo_db: float
    extra_attenuation: float
    distance_mm: Field
    inner_stiffness: Field
    """Multiplies the stiffness inside: lesions are not even."""
    bgr: bool

    @property
    def look(self) -> LesionLook:
        return tissue.LOOKS[self.look_kind]

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.distance_mm < 0


def draw_kind(rng: np.random.Generator) -> tuple[str, str]:
    """Return (look, stiffness) kinds; "none" twice where there is no lesion."""
    kinds = list(tissue.KIND_SHARES)
    look = str(rng.choice(kinds, p=list(tissue.KIND_SHARES.values())))
    return look, draw_stiffness_kind(rng, look)


def draw_stiffness_kind(rng: np.random.Generator, look: str) -> str:
    """Return which kind's stiffness a lesion of this look has: some contradict their look."""
    contradicts = rng.random() < tissue.CONTRADICTION_SHARE
    other = {"benign": "malignant", "malignant": "benign"}
    return other.get(look, look) if contradicts else look


def draw_stiffness(rng: np.random.Generator, kind: LesionStiffness) -> float:
    """Draw a lesion's Young's modulus against fat."""
    return float(np.clip(kind.median * rng.lognormal(0, kind.spread), 0.3, 40.0))


def draw_inner_stiffness(rng: np.random.Generator, shape: tuple[int, int], spacing_mm: float) -> Field:
    """Draw what multiplies the stiffness inside a lesion, shape (rows, columns)."""
    return np.asarray(np.exp(0.2 * random_field(rng, shape, 1.5 / spacing_mm, 1.5 / spacing_mm)))


def stiffen(
    log_stiffness: Field, distance_mm: Field, stiffness: float, overreach_mm: float, inner: Field
) -> None:
    """Put a lesion's stiffness into a map of its logarithm, in place, as far as it passes the border."""
    stiff = soft_step(overreach_mm - distance_mm, 0.5)
    level = np.log(stiffness) + np.log(inner)
    log_stiffness += stiff * (level - log_stiffness)


def _outline(rng: np.random.Generator, angle: Field, look: LesionLook) -> Field:
    """Relative radius at each angle: low harmonics for lobes, high ones for spicules."""
    amount = rng.uniform(*look.spiculation)
    spiculated = look.spiculation[1] > 0.1
    radius = np.ones_like(angle)
    for order in range(2, 14 if spiculated else 5):
        weight = 1.0 / order if not spiculated else 1.0 / np.sqrt(order)
        radius += 0.6 * amount * weight * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return np.maximum(radius, 0.35)


def draw_lesion(
    rng: np.random.Generator,
    x_mm: Field,
    y_mm: Field,
    *,
    kinds: tuple[str, str],
    width_mm: float,
    top_mm: float,
    bottom_mm: float,
) -> Lesion:
    """Place one lesion between two depths, inside the visible width (x = 0 is the centre)."""
    look, stiff = tissue.LOOKS[kinds[0]], tissue.STIFFNESSES[kinds[1]]
    area_radius = float(np.clip(rng.lognormal(np.log(6.0), 0.5), 2.5, min(11.0, 0.5 * (bottom_mm - top_mm))))
    elongation = rng.uniform(*look.elongation)
    half_height, half_width = area_radius * np.sqrt(elongation), area_radius / np.sqrt(elongation)
    half_width = min(half_width, 0.42 * width_mm)
    reach = max(0.0, width_mm / 2 - 0.8 * half_width)
    centre_x = rng.uniform(-reach, reach) * 0.8
    low, high = top_mm + half_height, bottom_mm - half_height
    centre_y = rng.uniform(low, high) if high > low else (top_mm + bottom_mm) / 2
    tilt = rng.normal(0, 0.25)
    u = (x_mm - centre_x) * np.cos(tilt) + (y_mm - centre_y) * np.sin(tilt)
    v = -(x_mm - centre_x) * np.sin(tilt) + (y_mm - centre_y) * np.cos(tilt)
    relative = np.hypot(u / half_width, v / half_height)
    outline = _outline(rng, np.arctan2(v / half_height, u / half_width), look)
    # Near the border this is the distance; far away only its sign and size matter.
    distance = (relative - outline) * min(half_width, half_height)
    pixel_mm = float(x_mm[0, 1] - x_mm[0, 0])
    inner = draw_inner_stiffness(rng, (x_mm.shape[0], x_mm.shape[1]), pixel_mm)
    return Lesion(
        look_kind=kinds[0],
        stiffness_kind=kinds[1],
        stiffness=draw_stiffness(rng, stiff),
        overreach_mm=rng.uniform(*stiff.overreach_mm),
        echo_db=rng.uniform(*look.echo_db),
        extra_attenuation=rng.uniform(*look.extra_attenuation),
        distance_mm=distance,
        inner_stiffness=inner,
        bgr=kinds[0] == "cyst" and rng.random() < tissue.BGR_SHARE,
    )
