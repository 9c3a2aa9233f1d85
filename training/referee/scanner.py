"""A linear array that looks at point scatterers: echoes summed as radio frequency, steered and compounded.

Each scatterer's echo is added to every beam near it at its own arrival time, with what side lobes and
focusing leave of it; nothing here is a filter over a picture. Speckle, its tails where scatterers are few
(Shankar 1993, 10.1109/42.241869), cyst clutter and shadows under compounding follow from that.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import ifft, next_fast_len, rfft
from scipy.spatial import cKDTree

from training.referee.layout import STEP_MM, Layout

Field = NDArray[np.float64]

SOUND_MM_PER_US = 1.54
RANGE_STEP_MM = 0.0125
"""Sampling of the echoes, one way: 61.6 MHz."""
REFERENCE_ATTENUATION = 0.65
"""dB / (cm MHz) that time-gain compensation assumes."""
_BEAMS_EACH_SIDE = 12
_ZONES = 3


@dataclass(frozen=True)
class Scanner:
    """One machine and its settings; lengths in mm."""

    bands_mhz: tuple[float, ...]
    """Centres of the bands whose envelopes are averaged (frequency compounding)."""
    bandwidth: float
    """Full width at half maximum, relative to the centre."""
    steering: tuple[float, ...]
    """Beam angles in radian, one transmitted frame each (spatial compounding)."""
    pitch: float
    f_number: float
    aperture: float
    focus: float
    apodisation: float
    """0: full side lobes; 1: nearly none."""
    noise_db: float
    """Electronic noise, relative to an echo of fat at the surface."""
    persistence: int
    """Frames averaged, as far as noise is concerned."""
    slide: tuple[float, ...]
    """Errors of the gain sliders in dB, from top to bottom."""
    reverberation: float
    reverberation_path: float
    dynamic_range_db: float
    curve: Literal["log", "sigmoid", "root"]
    brightness: float
    """Grey to which the median of the frame is set, 0 to 1."""
    sharpening: float
    smoothing: int
    """Width of the median filter of the picture in pixels; 1 is none."""
    spacing: float
    """One pixel of the picture."""


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw one machine."""
    centre = rng.uniform(5.5, 11.0)
    split = rng.uniform(0.10, 0.16)
    bands = (centre,) if rng.random() < 0.5 else (centre * (1 - split), centre * (1 + split))
    views, apart = int(rng.choice([1, 3, 3, 5])), np.deg2rad(rng.uniform(4.0, 8.0))
    curves: tuple[Literal["log", "sigmoid", "root"], ...] = ("log", "sigmoid", "root")
    return Scanner(
        bands_mhz=tuple(float(band) for band in bands),
        bandwidth=rng.uniform(0.45, 0.75) / (1.0 if len(bands) == 1 else 1.5),
        steering=tuple(float(angle) for angle in apart * (np.arange(views) - (views - 1) / 2)),
        pitch=rng.uniform(0.20, 0.30),
        f_number=rng.uniform(1.4, 2.6),
        aperture=rng.uniform(14.0, 24.0),
        focus=rng.uniform(10.0, 30.0),
        apodisation=rng.uniform(0.1, 0.9),
        noise_db=rng.uniform(-80.0, -66.0),
        persistence=int(rng.integers(1, 4)),
        slide=tuple(float(error) for error in rng.normal(0.0, 1.6, 6)),
        reverberation=rng.uniform(0.0, 0.08),
        reverberation_path=rng.uniform(1.0, 3.5),
        dynamic_range_db=rng.uniform(46.0, 72.0),
        curve=curves[int(rng.integers(3))],
        brightness=rng.uniform(0.30, 0.48),
        sharpening=float(rng.choice([0.0, 0.0, rng.uniform(0.2, 0.8)])),
        smoothing=int(rng.choice([1, 1, 3])),
        spacing=rng.uniform(0.085, 0.16),
    )


@dataclass(frozen=True, eq=False)
class Scatterers:
    """What gives echoes: positions in mm and signed amplitudes, each (N,)."""

    x: Field
    z: Field
    amplitude: Field


def scatter(layout: Layout, rng: np.random.Generator) -> Scatterers:
    """Sow scatterers: a Poisson process whose density differs from cell to cell, and flat reflectors."""
    most = 3.0 * float(layout.scatterers.max())
    margin = 3.0
    low, high = -layout.width_mm / 2 - margin, layout.width_mm / 2 + margin
    number = rng.poisson(most * (high - low) * layout.depth_mm)
    x, z = rng.uniform(low, high, number), rng.uniform(0.0, layout.depth_mm, number)
    spacing = rng.uniform(0.5, 1.6)
    cells = int((high - low) * layout.depth_mm / spacing**2) + 1
    seeds = np.stack([rng.uniform(low, high, cells), rng.uniform(0.0, layout.depth_mm, cells)], axis=1)
    density = layout.at(layout.scatterers, x, z)
    keep = rng.random(number) * most < 3.0 * density  # no cell holds more than three times its share
    x, z, density = x[keep], z[keep], density[keep]
    cell = cKDTree(seeds).query(np.stack([x, z], axis=1))[1]
    share = 1.0 + layout.at(layout.clumping, x, z) * (rng.gamma(0.9, 1 / 0.9, cells)[cell] - 1.0)
    keep = rng.random(len(x)) * 3.0 < share
    x, z, density = x[keep], z[keep], density[keep]
    level = 10 ** (layout.at(layout.echo_db, x, z) / 20) / np.sqrt(density)
    amplitude = level * rng.normal(size=len(x)) * np.sqrt(rng.gamma(2.0, 0.5, len(x)))

    row, column = np.nonzero(layout.surface)
    flat_x = layout.x[column] + rng.uniform(-0.5, 0.5, len(row)) * STEP_MM
    flat_z = layout.z[row] + rng.normal(0.0, 0.1, len(row)) * STEP_MM
    seen = (flat_x > low) & (flat_x < high) & (flat_z < layout.depth_mm)
    return Scatterers(
        np.concatenate([x, flat_x[seen]]),
        np.concatenate([z, flat_z[seen]]),
        np.concatenate([amplitude, layout.surface[row, column][seen]]),
    )


def picture(layout: Layout, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Scan a layout: B-mode (H, W), `scanner.spacing` mm a pixel, the image of `layout` and no more."""
    scatterers = scatter(layout, rng)
    rows, columns = (round(length / scanner.spacing) for length in (layout.depth_mm, layout.width_mm))
    x = (np.arange(columns) + 0.5) * scanner.spacing - layout.width_mm / 2
    z = (np.arange(rows) + 0.5) * scanner.spacing
    grid_x, grid_z = np.meshgrid(x, z)
    total, seen = np.zeros((rows, columns)), np.zeros((rows, columns))
    for angle in scanner.steering:
        # Between two frames the hand and the patient move a little.
        drift = rng.normal(0.0, 0.02, 2)
        moved = Scatterers(scatterers.x + drift[0], scatterers.z + drift[1], scatterers.amplitude)
        envelope, step = _frame(layout, moved, scanner, angle, rng)
        beam = (grid_x - grid_z * np.tan(angle) + layout.width_mm / 2) / scanner.pitch
        sample = grid_z / np.cos(angle) / step
        inside = (beam >= 0) & (beam <= len(envelope) - 1)
        total += inside * cv2.remap(
            envelope.astype(np.float32), sample.astype(np.float32), beam.astype(np.float32), cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        seen += inside
    return _display(total / np.maximum(seen, 1), seen > 0, scanner)


def _frame(
    layout: Layout, scatterers: Scatterers, scanner: Scanner, angle: float, rng: np.random.Generator
) -> tuple[Field, float]:
    """One steered frame: envelope (beams, samples) after gain, and the range of one sample in mm."""
    beams = int(np.ceil(layout.width_mm / scanner.pitch)) + 1
    reach = layout.depth_mm / np.cos(angle) + 1.0
    samples = next_fast_len(int(np.ceil(reach / RANGE_STEP_MM)), real=True)
    echoes = _echoes(layout, scatterers, scanner, angle, beams, samples)
    delay = round(scanner.reverberation_path / RANGE_STEP_MM)
    echoes[:, delay:] += scanner.reverberation * echoes[:, :-delay]

    distance = np.arange(samples) * RANGE_STEP_MM
    centre = float(np.mean(scanner.bands_mhz))
    slide = np.interp(distance, np.linspace(0.0, reach, len(scanner.slide)), scanner.slide)
    gain = 10 ** ((2 * REFERENCE_ATTENUATION * centre * distance / 10 + slide) / 20)
    # Deep echoes have lost their high frequencies: the pulse changes from zone to zone.
    zones = np.linspace(0.0, reach, _ZONES)
    spectra = [
        rfft(echoes * np.clip(1 - np.abs(distance - z) / (zones[1] - zones[0]), 0, None), axis=1)
        for z in zones
    ]
    frequency = np.arange(spectra[0].shape[1]) / (samples * RANGE_STEP_MM) * SOUND_MM_PER_US / 2
    envelopes, steps = [], []
    for band in scanner.bands_mhz:
        width = band * scanner.bandwidth / 2.355
        kept = np.flatnonzero(np.abs(frequency - 0.94 * band) < 3.0 * width)
        short = next_fast_len(2 * len(kept))
        step = samples * RANGE_STEP_MM / short
        one_sided = np.zeros((beams, len(kept)), dtype=np.complex128)
        for i, spectrum in enumerate(spectra):
            shifted = band * (1 - 0.12 * i / (_ZONES - 1))
            one_sided += spectrum[:, kept] * np.exp(-0.5 * ((frequency[kept] - shifted) / width) ** 2)
        # Only the band is turned back, so a few samples hold the whole envelope.
        clean = ifft(one_sided, n=short, axis=1) * (short / samples)
        noise = 10 ** (scanner.noise_db / 20) * _fat_level(band, width, scanner) / np.sqrt(2)
        found = np.zeros((beams, short))
        for _ in range(scanner.persistence):
            in_phase, quadrature = rng.normal(size=(2, beams, short)) * noise
            found += np.abs(clean + in_phase + 1j * quadrature) / scanner.persistence
        envelopes.append(found * np.interp(np.arange(short) * step, distance, gain))
        steps.append(step)
    total = envelopes[0]
    for other, step in zip(envelopes[1:], steps[1:], strict=True):
        at = np.minimum(np.arange(total.shape[1]) * steps[0] / step, other.shape[1] - 1.001)
        left = at.astype(np.int64)
        total = total + other[:, left] * (1 - (at - left)) + other[:, left + 1] * (at - left)
    return total, steps[0]


def _fat_level(band: float, width: float, scanner: Scanner) -> float:
    """Root mean square of the envelope that fat gives where nothing has been lost."""
    # Unit scatterer power per mm²: the area under the squared pulse, axially and laterally.
    spatial = 2 / SOUND_MM_PER_US
    axial = RANGE_STEP_MM**2 * width * spatial * np.sqrt(np.pi)
    lateral = 0.7 * scanner.f_number * SOUND_MM_PER_US / band
    return float(np.sqrt(axial * lateral))


def _echoes(
    layout: Layout, scatterers: Scatterers, scanner: Scanner, angle: float, beams: int, samples: int
) -> Field:
    """Impulses of all scatterers as every beam receives them, (beams, samples)."""
    sine, cosine = np.sin(angle), np.cos(angle)
    x, z = scatterers.x, scatterers.z
    start = -layout.width_mm / 2
    centre = float(np.mean(scanner.bands_mhz))
    wavelength = SOUND_MM_PER_US / centre
    lost_db = _attenuated(layout, scatterers, scanner, angle, centre)
    amplitude = scatterers.amplitude * 10 ** (-lost_db / 20)
    # Receive: the aperture opens with depth as far as it goes. Transmit: one focus.
    receive = wavelength * np.maximum(scanner.f_number, z / scanner.aperture)
    opening = 0.5 * scanner.focus / (1.6 * scanner.f_number)
    transmit = 1.6 * wavelength * scanner.f_number + np.abs(z - scanner.focus) * opening / scanner.focus
    spread = 1 / np.sqrt(receive / (wavelength * scanner.f_number))

    nearest = np.rint((x - z * np.tan(angle) - start) / scanner.pitch).astype(np.int64)
    flat = np.zeros(beams * samples)
    for offset in range(-_BEAMS_EACH_SIDE, _BEAMS_EACH_SIDE + 1):
        beam = nearest + offset
        origin = start + beam * scanner.pitch
        aside = (x - origin) * cosine - z * sine
        here = (beam >= 0) & (beam < beams) & (np.abs(aside) < 6 * receive)
        along = ((x - origin) * sine + z * cosine)[here]
        aside, w_receive, w_transmit = aside[here], receive[here], transmit[here]
        lobe = np.sinc(aside / w_receive)
        lobe *= 1 - scanner.apodisation + scanner.apodisation * np.exp(-((aside / w_receive) ** 2))
        weight = amplitude[here] * spread[here] * lobe / (1 + (aside / w_transmit) ** 2)
        sample = 0.5 * (along + np.hypot(along, aside)) / RANGE_STEP_MM
        left = sample.astype(np.int64)
        share = sample - left
        inside = (left >= 0) & (left < samples - 1)
        at = (beam[here] * samples + left)[inside]
        flat += np.bincount(at, (weight * (1 - share))[inside], minlength=flat.size)
        flat += np.bincount(at + 1, (weight * share)[inside], minlength=flat.size)
    return flat.reshape(beams, samples)


def _attenuated(layout: Layout, scatterers: Scatterers, scanner: Scanner, angle: float, mhz: float) -> Field:
    """Loss in dB of each scatterer's echo, there and back along its beam."""
    step = 0.2
    margin = 5.0 + layout.depth_mm * abs(np.tan(angle))
    origin = np.arange(-layout.width_mm / 2 - margin, layout.width_mm / 2 + margin, step)
    distance = np.arange(0.0, layout.depth_mm / np.cos(angle) + 1.0, step)
    x = origin[:, None] + distance[None, :] * np.sin(angle)
    z = np.broadcast_to(distance[None, :] * np.cos(angle), x.shape)
    # A beam is about a millimetre wide: it averages over what it passes.
    passed = cv2.blur(np.cumsum(layout.at(layout.attenuation, x, z), axis=1), (1, 5))
    row = (scatterers.x - scatterers.z * np.tan(angle) - origin[0]) / step
    column = scatterers.z / np.cos(angle) / step
    row = np.clip(np.rint(row), 0, len(origin) - 1).astype(np.int64)
    column = np.clip(np.rint(column), 0, len(distance) - 1).astype(np.int64)
    lost: Field = passed[row, column] * (2 * mhz * step / 10)
    return lost


def _display(envelope: Field, seen: NDArray[np.bool_], scanner: Scanner) -> NDArray[np.uint8]:
    """Compress and process an envelope as a machine shows it."""
    decibel = 20 * np.log10(np.maximum(envelope, 1e-12))
    level = (decibel - np.median(decibel[seen])) / scanner.dynamic_range_db
    if scanner.curve == "sigmoid":
        steep = 5.0
        grey = 1 / (1 + np.exp(-steep * level) * (1 / scanner.brightness - 1))
    elif scanner.curve == "root":
        power = 0.75
        grey = np.clip(level + scanner.brightness ** (1 / power), 0.0, 1.0) ** power
    else:
        grey = level + scanner.brightness
    image = np.where(seen, np.clip(grey, 0.0, 1.0), 0.0).astype(np.float32)
    if scanner.smoothing > 1:
        cv2.medianBlur(image, scanner.smoothing, dst=image)
    if scanner.sharpening:
        image += scanner.sharpening * (image - cv2.GaussianBlur(image, (0, 0), 2.0))
    return np.round(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
