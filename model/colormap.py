"""Strain index to colour and back: named, versioned tables, any other table, and overlays undone by chroma.

Convention of our own tables: red is soft, green is mean, blue is hard, laid translucently over the B-mode.
Entry 255 of every table is the soft end (strain index 1), entry 0 the hard end.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from model.errors import ColorMapInvalid, ColorMapUnknown

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ColorMap:
    """One table. A published one never changes: a change of colours is a new version, never an edit."""

    name: str
    version: int
    table: Bytes
    """uint8 (256, 3) RGB, read-only."""

    @property
    def sha256(self) -> str:
        """Digest of the table's bytes, so that a bundle can tell that its colours are unchanged."""
        return hashlib.sha256(np.ascontiguousarray(self.table).tobytes()).hexdigest()


def _rainbow_v1() -> Bytes:
    """Fully saturated hues from 240 degrees (blue, hard) by 120 (green, mean) to 0 (red, soft).

    In the plane of chroma this path follows the edges of a hexagon at an even pace: every
    entry is invertible, none is grey, and equal steps of strain are equal steps of chroma.
    """
    t = np.arange(256) / 255.0
    sextant = 4.0 * (1.0 - t)  # hue / 60 degrees
    red = np.clip(2.0 - sextant, 0, 1)
    green = np.clip(np.minimum(sextant, 4.0 - sextant), 0, 1)
    blue = np.clip(sextant - 2.0, 0, 1)
    return np.round(np.stack([red, green, blue], axis=-1) * 255).astype(np.uint8)


_FORMULAS: dict[tuple[str, int], Callable[[], Bytes]] = {("emode-rainbow", 1): _rainbow_v1}


@lru_cache
def get_colormap(name: str, version: int) -> ColorMap:
    """Return a table by name and version; ColorMapUnknown lists those there are."""
    try:
        table = _FORMULAS[name, version]()
    except KeyError:
        known = ", ".join(f"{n} {v}" for n, v in sorted(_FORMULAS))
        raise ColorMapUnknown(f'"{name}" version {version}; known: {known}') from None
    table.setflags(write=False)
    return ColorMap(name, version, table)


def colormap_of(name: str, table: Bytes, version: int = 1) -> ColorMap:
    """Make a colour map of any table, as one read off a scanner's colour bar; the bytes are copied.

    table  uint8 (256, 3) RGB, the hard end first.

    Raises ColorMapInvalid for another shape or type. Bundles name only the tables of `get_colormap`.
    """
    if table.dtype != np.uint8 or table.shape != (256, 3):
        raise ColorMapInvalid(f'"{name}" is {table.dtype} {table.shape}, not uint8 (256, 3)')
    own = np.array(table, order="C")
    own.setflags(write=False)
    return ColorMap(name, version, own)


def render(strain: Floats, colormap: ColorMap) -> Bytes:
    """Colour a strain index (...) in [0, 1]: uint8 (..., 3) RGB, nearest entry."""
    index = np.round(np.clip(strain, 0.0, 1.0) * 255).astype(np.uint8)
    return colormap.table[index]


def overlay(
    strain: Floats, bmode: Bytes, colormap: ColorMap, alpha: float, residual: Sequence[Floats] | None = None
) -> Bytes:
    """Lay the coloured strain (H, W) over the B-mode (H, W): uint8 (H, W, 3) RGB.

    alpha     share of colour, 0 to 1; the rest is B-mode.
    residual  one float32 (H, W) for each channel, added after the blend; 1 is full scale.
    """
    index = np.round(np.clip(strain, 0.0, 1.0) * 255).astype(np.uint8)
    # Scaling the table is quicker than scaling every pixel of a picture, and so are planes than pixels.
    table = colormap.table.astype(np.float32) * alpha
    grey = bmode.astype(np.float32) * (1.0 - alpha)
    planes = []
    for channel in range(3):
        plane: Floats = np.asarray(cv2.LUT(index, table[:, channel].copy()), dtype=np.float32)
        plane += grey
        if residual is not None:
            plane += residual[channel] * np.float32(255)
        np.clip(plane, 0, 255, out=plane)
        plane += 0.5
        planes.append(plane.astype(np.uint8))
    return np.asarray(cv2.merge(planes))


def chroma_of(rgb: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return what is left of colours (..., 3) without their mean: a grey B-mode beneath cancels exactly."""
    values = rgb.astype(np.float32)
    return np.asarray(values - values.mean(axis=-1, keepdims=True), dtype=np.float32)


@lru_cache(maxsize=32)
def _chroma_tree(colormap: ColorMap) -> cKDTree:
    return cKDTree(chroma_of(colormap.table))


def match(chroma: NDArray[np.float32], colormap: ColorMap, alpha: float = 1.0) -> tuple[Floats, Floats]:
    """Find the entry of nearest chroma for each pixel of an overlay of known alpha.

    chroma  float32 (..., 3) from `chroma_of`, of a colour map blended over grey with share alpha in (0, 1].
    return  strain index float32 (...) in [0, 1], and the distance to that entry in levels of the table:
            about 0 where the colour is the map's, large where it is something else, as text or a marker.
    """
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}, must be in (0, 1]: an overlay without colour holds no strain")
    distance, index = _chroma_tree(colormap).query(chroma.reshape(-1, 3) / alpha)
    strain = (np.asarray(index) / 255.0).astype(np.float32).reshape(chroma.shape[:-1])
    return strain, np.asarray(distance, dtype=np.float32).reshape(chroma.shape[:-1])


def invert(rgb: Bytes, colormap: ColorMap, alpha: float = 1.0) -> Floats:
    """Recover the strain index from an overlay of known alpha.

    rgb    uint8 (..., 3), colormap blended over any grey image with share alpha in (0, 1].
    return float32 (...) in [0, 1], the entry whose chroma is nearest; mean error about 0.001
           at alpha 0.4 without lossy compression.
    """
    table = _inverse(colormap, alpha)
    red, green, blue = (rgb[..., channel].astype(np.intp) for channel in range(3))
    return np.asarray(table[red - green + 255, green - blue + 255], dtype=np.float32)


@lru_cache(maxsize=16)
def _inverse(colormap: ColorMap, alpha: float) -> Floats:
    """Strain index for each (red - green, green - blue) from -255 on: chroma depends on nothing else."""
    steps = np.arange(-255.0, 256.0)
    red, blue = np.meshgrid(steps, -steps, indexing="ij")
    return match(chroma_of(np.stack([red, np.zeros_like(red), blue], axis=-1)), colormap, alpha)[0]
