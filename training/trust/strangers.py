"""Frames that are not breast B-mode, drawn: what a reference is told to keep away from.

Some are drawn from nothing, some are breast frames bent, turned or torn. None is a real picture of another
organ: whether those are told apart is for tests on real files to show.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from training.trust.looks import Frame

Floats = NDArray[np.float64]
Stranger = Callable[[np.random.Generator, Frame], Frame]
"""(random numbers, a breast frame uint8 (H, W) to start from) -> uint8 of any size."""

_GLYPHS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop 0123456789.:  ")


def _bytes(values: NDArray[np.floating]) -> Frame:
    return np.asarray(np.clip(values, 0, 255), dtype=np.uint8)


def _size(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(160, 360)), int(rng.integers(180, 440))


def _grain(rng: np.random.Generator, shape: tuple[int, int], most: float) -> Floats:
    return rng.normal(0, rng.uniform(0, most), shape)


def _black(rng: np.random.Generator, _: Frame) -> Frame:
    shape = _size(rng)
    return _bytes(rng.uniform(0, 4) + _grain(rng, shape, 3))


def _grey(rng: np.random.Generator, _: Frame) -> Frame:
    shape = _size(rng)
    return _bytes(rng.uniform(20, 240) + _grain(rng, shape, 2))


def _gradient(rng: np.random.Generator, _: Frame) -> Frame:
    height, width = _size(rng)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * np.arange(width) / width + np.sin(angle) * np.arange(height)[:, None] / height
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    return _bytes(255 * ramp ** rng.uniform(0.5, 2) + _grain(rng, ramp.shape, 3))


def _bars(rng: np.random.Generator, _: Frame) -> Frame:
    shape, n = _size(rng), int(rng.integers(4, 24))
    levels = rng.integers(0, 256, n) if rng.random() < 0.5 else np.linspace(0, 255, n)
    axis = int(rng.integers(0, 2))
    line = levels[np.arange(shape[axis]) * n // shape[axis]].astype(float)
    return _bytes((line[:, None] if axis == 0 else line[None]) + _grain(rng, shape, 4))


def _noise(rng: np.random.Generator, _: Frame) -> Frame:
    shape, sigma = _size(rng), float(rng.choice([0, 0.7, 1.5, 3]))
    noise = rng.normal(size=shape)
    if sigma:
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma), np.float64)
    return _bytes(rng.uniform(60, 160) + noise / noise.std() * rng.uniform(15, 60))


def _text(rng: np.random.Generator, _: Frame) -> Frame:
    height, width = 2 * np.array(_size(rng))
    ground = int(rng.choice([0, 10, 30, 200, 255]))
    page = np.full((height, width), ground, np.uint8)
    y = 20
    while y < height - 5:
        if rng.random() < 0.85:
            words = "".join(rng.choice(_GLYPHS, int(rng.integers(5, 50))))
            place, scale = (int(rng.integers(5, width // 3)), y), float(rng.uniform(0.35, 0.8))
            ink = 255 if ground < 128 else 0
            cv2.putText(page, words, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
        y += int(rng.integers(14, 34))
    return page


def _checkers(rng: np.random.Generator, _: Frame) -> Frame:
    height, width = _size(rng)
    side = int(rng.integers(6, 60))
    board = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    return _bytes(board * rng.uniform(100, 255) + rng.uniform(0, 40) + _grain(rng, board.shape, 3))


def _fractal(rng: np.random.Generator, shape: tuple[int, int], slope: float) -> Floats:
    """A random field whose power falls with frequency to the power of `slope`; mean 0, deviation 1."""
    across, along = np.fft.rfftfreq(shape[1])[None], np.fft.fftfreq(shape[0])[:, None]
    frequency = np.hypot(across, along)
    frequency[0, 0] = np.inf
    spectrum = (rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)) / frequency ** (
        slope / 2
    )
    field = np.fft.irfft2(spectrum, shape)
    return np.asarray(field / field.std())


def _clouds(rng: np.random.Generator, _: Frame) -> Frame:
    """Grey as in photographs: power falls with the square of frequency, in all directions alike."""
    field = _fractal(rng, _size(rng), rng.uniform(1.6, 3.2))
    return _bytes(rng.uniform(70, 150) + rng.uniform(25, 60) * field)


def _speckle(rng: np.random.Generator, shape: tuple[int, int], axial: float, lateral: float) -> Floats:
    """Fully developed speckle in decibels."""
    parts = (cv2.GaussianBlur(rng.normal(size=shape), (0, 0), sigmaX=lateral, sigmaY=axial) for _ in range(2))
    envelope = np.hypot(*parts)
    return np.asarray(20 * np.log10(envelope / np.sqrt((envelope**2).mean()) + 1e-3))


def _discs(rng: np.random.Generator, shape: tuple[int, int], n: int, radius: float) -> Floats:
    """Echo levels in decibels of some ellipses, 0 outside."""
    y, x = np.arange(shape[0])[:, None] / shape[0], np.arange(shape[1])[None] / shape[1]
    level = np.zeros(shape)
    for _ in range(n):
        axes, at = rng.uniform(0.2 * radius, radius, 2), rng.uniform(0, 1, 2)
        inside = ((y - at[0]) / axes[0]) ** 2 + ((x - at[1]) / axes[1]) ** 2 < 1
        level = np.where(inside, rng.choice([-30, -20, -10, 9]), level)
    return level


def _phantom(rng: np.random.Generator, _: Frame) -> Frame:
    """A test object: even speckle with discs of other echo levels."""
    shape = _size(rng)
    level = _speckle(rng, shape, rng.uniform(0.8, 1.6), rng.uniform(1.3, 3))
    level = level + _discs(rng, shape, int(rng.integers(0, 7)), 0.12)
    fading = rng.uniform(0, 45) * np.arange(shape[0])[:, None] / shape[0]
    return _bytes(rng.uniform(80, 150) + rng.uniform(3, 6) * level - fading)


def _bent(rng: np.random.Generator, source: Frame) -> Frame:
    """Show a frame as the sector of a curved or phased array."""
    inner = 0.0 if rng.random() < 0.5 else rng.uniform(0.05, 0.6)
    return _sector(rng, source, inner, np.deg2rad(rng.uniform(22, 48)))


def _cut_off(rng: np.random.Generator, source: Frame) -> Frame:
    """The middle of a curved array's sector, wider than the pane: only its top corners stay dark."""
    sector = _sector(rng, source, rng.uniform(0.2, 0.6), np.deg2rad(rng.uniform(25, 40)))
    left, right = (round(sector.shape[1] * rng.uniform(0.05, 0.2)) for _ in range(2))
    return np.ascontiguousarray(sector[:, left : sector.shape[1] - right])


def _organ_cut_off(rng: np.random.Generator, _: Frame) -> Frame:
    return _cut_off(rng, _tissue(rng))


def _sector(rng: np.random.Generator, source: Frame, inner: float, half_angle: float) -> Frame:
    """Scan convert: columns of a frame become beams.

    inner       radius of the probe's face, in shares of the deepest.
    half_angle  of the sector, in radians.
    """
    height = int(rng.integers(200, 360))
    width = round(height * rng.uniform(1.0, 1.5))
    top = inner * np.cos(half_angle)
    step = max((1 - top) / height, 2 * np.sin(half_angle) / width) * rng.uniform(1.0, 1.03)
    x = (np.arange(width)[None] - width / 2) * step
    y = top + (np.arange(height)[:, None] - (height - (1 - top) / step) / 2) * step
    radius, angle = np.hypot(x, y), np.arctan2(x, y)
    across = (angle / half_angle + 1) / 2 * (source.shape[1] - 1)
    along = (radius - inner) / (1 - inner) * (source.shape[0] - 1)
    sector = cv2.remap(source, across.astype(np.float32), along.astype(np.float32), cv2.INTER_LINEAR)
    sector[(radius < inner) | (radius > 1) | (np.abs(angle) > half_angle)] = 0
    return np.asarray(sector)


def _organ(rng: np.random.Generator, _: Frame) -> Frame:
    """A sector of speckle with large structures, as of an abdomen or a heart."""
    return _bent(rng, _tissue(rng))


def _tissue(rng: np.random.Generator) -> Frame:
    shape = (300, 220)
    level = rng.uniform(8, 16) * _fractal(rng, shape, 3.0) + _speckle(rng, shape, 1.2, 2.0)
    level = level + _discs(rng, shape, int(rng.integers(0, 4)), 0.35)
    return _bytes(rng.uniform(60, 120) + rng.uniform(2.5, 5) * level)


def _air(rng: np.random.Generator, _: Frame) -> Frame:
    """A probe in air: echoes of its own face, then nothing but noise that the gain brings up."""
    height, width = _size(rng)
    depth = np.arange(height)[:, None] / height
    spacing, fall = rng.uniform(0.02, 0.09), rng.uniform(3, 12)
    lines = np.abs(np.cos(np.pi * depth / spacing)) ** rng.uniform(1, 8) * np.exp(-fall * depth)
    hiss = np.clip((depth - rng.uniform(0, 0.6)) * rng.uniform(0, 3), 0, 1) * rng.uniform(10, 90)
    frame = _bytes(
        rng.uniform(150, 330) * lines
        + hiss * (1 + 0.12 * _speckle(rng, (height, width), 0.7, 1.0))
        + _grain(rng, (height, width), 3)
    )
    return _bent(rng, frame) if rng.random() < 0.3 else frame


def _shuffled(rng: np.random.Generator, source: Frame) -> Frame:
    n = int(rng.integers(3, 9))
    height, width = source.shape[0] // n, source.shape[1] // n
    tiles = [
        source[i * height : (i + 1) * height, j * width : (j + 1) * width] for i in range(n) for j in range(n)
    ]
    order = rng.permutation(n * n)
    return np.vstack([np.hstack([tiles[order[i * n + j]] for j in range(n)]) for i in range(n)])


def _inverted(_: np.random.Generator, source: Frame) -> Frame:
    return np.asarray(255 - source)


def _upside_down(_: np.random.Generator, source: Frame) -> Frame:
    return np.ascontiguousarray(source[::-1])


def _turned(_: np.random.Generator, source: Frame) -> Frame:
    return np.ascontiguousarray(np.rot90(source))


def _blurred(rng: np.random.Generator, source: Frame) -> Frame:
    return np.asarray(cv2.GaussianBlur(source, (0, 0), source.shape[1] / rng.uniform(20, 45)))


def _two_greys(_: np.random.Generator, source: Frame) -> Frame:
    return np.where(source > np.median(source), 255, 0).astype(np.uint8)


def _drowned(rng: np.random.Generator, source: Frame) -> Frame:
    return _bytes(0.3 * source + rng.normal(90, 50, source.shape))


def _whole_screen(rng: np.random.Generator, source: Frame) -> Frame:
    """A scanner's whole screen: the picture of a sector among writing, bars and marks."""
    screen = _text(rng, source)
    picture = _organ(rng, source) if rng.random() < 0.5 else _bent(rng, source)
    height, width = (round(side * rng.uniform(0.4, 0.95)) for side in screen.shape)
    top, left = (
        int(rng.integers(0, 1 + whole - part))
        for whole, part in zip(screen.shape, (height, width), strict=True)
    )
    place = screen[top : top + height, left : left + width]
    place[:] = np.maximum(place // 2 * (place > 200), cv2.resize(picture, (width, height)))
    return screen


STRANGERS: Mapping[str, Stranger] = MappingProxyType({
    "black": _black,
    "plain grey": _grey,
    "gradient": _gradient,
    "bars": _bars,
    "noise": _noise,
    "writing": _text,
    "checkers": _checkers,
    "photograph": _clouds,
    "test object": _phantom,
    "sector": _bent,
    "organ in a sector": _organ,
    "sector cut off": _cut_off,
    "organ in a sector cut off": _organ_cut_off,
    "probe in air": _air,
    "shuffled": _shuffled,
    "negative": _inverted,
    "upside down": _upside_down,
    "turned": _turned,
    "blurred": _blurred,
    "two greys": _two_greys,
    "drowned in noise": _drowned,
    "whole screen": _whole_screen,
})  # fmt: skip
"""What a frame may resemble, by the name that people read."""
