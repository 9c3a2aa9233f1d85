"""B-mode from tissue maps: speckle, beam, attenuation, and the looks of several scanners."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.simulator.anatomy import Phantom
from training.simulator.noise import Field, random_field, smooth

TIME_GAIN = 0.72
"""dB / (cm MHz) that the time-gain compensation assumes: an average breast."""


@dataclass(frozen=True)
class Look:
    """The settings of one scanner and its operator."""

    frequency_mhz: float
    axial_mm: float
    lateral_mm: float
    focus: float
    """Depth of the focus, relative to the image depth."""
    compounding: int
    """Views averaged: each lowers speckle contrast."""
    dynamic_range_db: float
    gain: float
    """Grey level of gland at mid depth, 0 to 1."""
    gamma: float
    edge_enhancement: float
    smoothing: float
    """Strength of speckle reduction, 0 to 1."""
    haze: float
    noise_floor_db: float
    depth_fall_db: float
    """Brightness lost from top to bottom by a badly set time gain; negative is a gain."""
    contrast: float
    """How far tissues differ, relative to what their echoes say: harmonic imaging shows more of it."""
    scatterers: float
    """Per pixel of the phantom grid, on average; few make speckle coarse and spiky. Infinity: as many as
    it takes for speckle to be fully developed."""


def draw_look(rng: np.random.Generator) -> Look:
    """Draw a scanner's look: 7-14 MHz linear probes, plain to strongly processed."""
    frequency = rng.uniform(7.0, 14.0)
    return Look(
        frequency_mhz=frequency,
        axial_mm=1.6 / frequency * rng.uniform(0.8, 1.2),
        lateral_mm=4.5 / frequency * rng.uniform(0.8, 1.4),
        focus=rng.uniform(0.25, 0.7),
        compounding=int(rng.choice([1, 2, 4, 6])),
        dynamic_range_db=rng.uniform(52.0, 74.0),
        gain=rng.uniform(0.48, 0.7),
        gamma=rng.uniform(0.8, 1.3),
        edge_enhancement=float(rng.choice([0.0, rng.uniform(0.2, 0.8)])),
        smoothing=float(rng.choice([0.0, rng.uniform(0.2, 0.8)])),
        haze=rng.uniform(0.0, 0.04),
        noise_floor_db=rng.uniform(-62.0, -42.0),
        depth_fall_db=rng.normal(4.0, 7.0),
        contrast=rng.uniform(0.7, 1.4),
        scatterers=float(rng.choice([np.inf, rng.uniform(0.3, 2.0)])),
    )


def _beam(field: Field, look: Look, h: float) -> Field:
    """Convolve with the point spread: axially even, laterally wider away from the focus."""
    rows = field.shape[0]
    away = np.abs(np.linspace(0, 1, rows) - look.focus)
    width = look.lateral_mm / 2.355 / h * (1.0 + 2.0 * away)
    levels = np.linspace(width.min(), width.max(), 3)
    blurred = [smooth(field, look.axial_mm / 2.355 / h, s) * np.sqrt(s) for s in levels]
    position = np.interp(width, levels, [0.0, 1.0, 2.0])
    weights = [np.clip(1 - np.abs(position - k), 0, 1)[:, None] for k in range(3)]
    return np.asarray(sum(w * b for w, b in zip(weights, blurred, strict=True)))


def _speckle(rng: np.random.Generator, amplitude: Field, look: Look, h: float) -> Field:
    """Intensity of the echo of random scatterers of the given amplitude, mean about amplitude²."""
    if np.isfinite(look.scatterers):
        # K-distributed echoes: the number of scatterers varies from place to place.
        amplitude = amplitude * np.sqrt(rng.gamma(look.scatterers, 1 / look.scatterers, amplitude.shape))
    total = np.zeros(amplitude.shape)
    for _ in range(look.compounding):
        real = _beam(amplitude * rng.standard_normal(amplitude.shape), look, h)
        imaginary = _beam(amplitude * rng.standard_normal(amplitude.shape), look, h)
        total += real * real + imaginary * imaginary
    # The blur took power away by the area of the point spread (a constant, as _beam scales rows).
    return total / look.compounding * (4 * np.pi * look.axial_mm / 2.355 / h)


def _transmission_db(phantom: Phantom, look: Look) -> Field:
    """Gain left by two-way attenuation after time-gain compensation: shadows and enhancement."""
    excess = phantom.attenuation - TIME_GAIN
    path_cm = phantom.spacing_mm / 10
    loss = 2 * look.frequency_mhz * path_cm * np.cumsum(excess, axis=0)
    # Shadows have soft sides because the beam converges from a wide aperture.
    loss = smooth(loss, 0.5, 1.2 / phantom.spacing_mm)
    return -np.clip(loss, -14.0, 32.0)


def render_bmode(rng: np.random.Generator, phantom: Phantom, look: Look) -> NDArray[np.uint8]:
    """Make one B-mode frame, uint8 (ROWS, columns without the margins)."""
    h = phantom.spacing_mm
    view = slice(phantom.margin, phantom.echo_db.shape[1] - phantom.margin)
    transmission = _transmission_db(phantom, look)[:, view]
    echo = look.contrast * phantom.echo_db[:, view]
    # Interfaces across the beam reflect: skin, fascia, septa, the front and back of a cyst.
    slope = np.abs(np.gradient(smooth(echo, 0.15 / h, 0.4 / h), h, axis=0))
    rows = np.linspace(0, 1, echo.shape[0])[:, None]
    fall = look.depth_fall_db * (rows * rows - 0.25)
    echo_db = echo + transmission - fall + np.clip(slope - 4.0, 0, 25) * 0.25
    intensity = _speckle(rng, 10 ** (echo_db / 20), look, h)
    intensity += 10 ** ((look.noise_floor_db + 26.0 * rows) / 10) * rng.exponential(size=echo.shape)
    # Reverberation and clutter: a haze that fades with depth.
    clutter = np.exp(-rows * 5.0) * (1 + 0.5 * random_field(rng, echo.shape, 1.0 / h, 12.0 / h))
    intensity += look.haze * np.maximum(clutter, 0)
    grey = look.gain + (10 * np.log10(intensity + 1e-9) - 2.0) / look.dynamic_range_db
    return _post_process(np.clip(grey, 0.0, 1.0), look)


def _post_process(grey: Field, look: Look) -> NDArray[np.uint8]:
    """What scanners do after log compression: smoothing, edge enhancement, a grey curve."""
    image = (grey**look.gamma).astype(np.float32)
    if look.smoothing:
        filtered = cv2.bilateralFilter(image, d=7, sigmaColor=0.18, sigmaSpace=2.0)
        image = (1 - look.smoothing) * image + look.smoothing * filtered
    if look.edge_enhancement:
        image = image + look.edge_enhancement * (image - cv2.GaussianBlur(image, (0, 0), 2.0))
    return np.asarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))
