"""The screen of a scanner that does not exist, drawn around a B-mode frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 800, 600

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1; half open, as an array is cut."""

_IMAGE_AREA: Box = (128, 64, 728, 524)
_GREY_BAR: Box = (24, 92, 40, 348)
_VELOCITY_BAR: Box = (58, 92, 74, 220)
_PANEL, _EDGE = (38, 41, 46), (70, 74, 80)
_TEXT, _QUIET, _NOTE = (222, 224, 226), (150, 154, 160), (236, 206, 96)


@dataclass(frozen=True, slots=True)
class Labels:
    """What the screen says."""

    hospital: str
    patient: str
    taken: str
    position: str
    """Where the probe is: `LEFT BREAST  2:00  N+4  RAD`."""
    mode: str = "2D"


@dataclass(frozen=True, slots=True)
class Screen:
    """A whole screen and where its B-mode stands."""

    pixels: NDArray[np.uint8]
    """uint8 (HEIGHT, WIDTH, 3), RGB."""
    bmode_box: Box
    spacing_mm: float
    """Of the pixels inside `bmode_box`."""


def draw_screen(bmode: NDArray[np.uint8], spacing_mm: float, labels: Labels) -> Screen:
    """Enlarge one B-mode frame, uint8 (H, W) or (H, W, 3), and draw the scanner's screen around it."""
    box, scale = place_bmode(bmode.shape[0], bmode.shape[1])
    x0, y0, x1, y1 = box
    canvas = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(canvas)
    _draw_panels(draw, labels)
    shown = cv2.resize(bmode, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    canvas.paste(Image.fromarray(shown).convert("RGB"), (x0, y0))
    _draw_depth_scale(draw, box, spacing_mm / scale)
    draw.ellipse((x0 + 4, y0 - 15, x0 + 14, y0 - 5), outline=_TEXT, width=2)  # the probe's orientation mark
    return Screen(np.asarray(canvas), box, spacing_mm / scale)


def place_bmode(rows: int, columns: int) -> tuple[Box, float]:
    """Where a frame of this size stands on the screen, and how much it is enlarged."""
    left, top, right, bottom = _IMAGE_AREA
    scale = min((right - left) / columns, (bottom - top) / rows)
    width, height = round(columns * scale), round(rows * scale)
    x0 = left + (right - left - width) // 2
    return (x0, top, x0 + width, top + height), scale


def draw_flow(screen: Screen, seed: int) -> tuple[Screen, Box]:
    """Lay a colour Doppler box over the B-mode; return the new screen and the colour box."""
    x0, y0, x1, y1 = screen.bmode_box
    width, height = x1 - x0, y1 - y0
    box = (x0 + width // 5, y0 + height // 6, x0 + width * 4 // 5, y0 + height * 3 // 4)
    canvas = screen.pixels.copy()
    inside = canvas[box[1] : box[3], box[0] : box[2]]
    rng = np.random.default_rng([seed, 9])
    speed, width_of = _vessels(rng, inside.shape[0], inside.shape[1])
    colours = _velocity_colours(speed)
    moving = width_of > 0.35
    inside[moving] = colours[moving]
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=(90, 220, 110))
    left, top, right, bottom = _VELOCITY_BAR
    ramp = _velocity_colours(np.linspace(1, -1, bottom - top)[:, None].repeat(right - left, axis=1))
    image.paste(Image.fromarray(ramp), (left, top))
    draw.text((left - 4, top - 18), "+5.1", _TEXT, _font(12))
    draw.text((left - 4, bottom + 4), "-5.1", _TEXT, _font(12))
    draw.text((left - 4, bottom + 19), "cm/s", _QUIET, _font(12))
    return Screen(np.asarray(image), screen.bmode_box, screen.spacing_mm), box


def _draw_panels(draw: ImageDraw.ImageDraw, labels: Labels) -> None:
    draw.rectangle((0, 0, WIDTH, 43), fill=_PANEL)
    draw.rectangle((0, 44, 107, HEIGHT), fill=_PANEL)
    draw.rectangle((108, 548, WIDTH, HEIGHT), fill=_PANEL)
    draw.rectangle((772, 44, WIDTH, 547), fill=_PANEL)
    draw.line((0, 43, WIDTH, 43), fill=_EDGE)
    draw.line((107, 44, 107, HEIGHT), fill=_EDGE)
    draw.line((108, 548, WIDTH, 548), fill=_EDGE)
    draw.line((772, 44, 772, 547), fill=_EDGE)
    draw.text((14, 6), labels.hospital, _TEXT, _font(15))
    draw.text((14, 24), labels.patient, _QUIET, _font(13))
    draw.text((WIDTH - 14, 6), "FICTITIOUS L12-5", _TEXT, _font(15), anchor="ra")
    draw.text((WIDTH - 14, 24), f"{labels.taken}   MI 1.1  TIs 0.2", _QUIET, _font(13), anchor="ra")
    left, top, right, bottom = _GREY_BAR
    for y in range(top, bottom):
        grey = 255 - (y - top) * 255 // (bottom - top - 1)
        draw.line((left, y, right - 1, y), fill=(grey, grey, grey))
    settings = (labels.mode, "32 Hz", "Gn 55", "DR 62", "Map 4", "P 90 %", "Res")
    for line, text in enumerate(settings):
        draw.text((14, 376 + 20 * line), text, _TEXT if line == 0 else _QUIET, _font(13))
    draw.text((126, 562), labels.position, _NOTE, _font(18))
    draw.text((WIDTH - 14, 566), "Breast", _QUIET, _font(13), anchor="ra")


def _draw_depth_scale(draw: ImageDraw.ImageDraw, box: Box, spacing_mm: float) -> None:
    """A tick every 5 mm right of the frame, a number every centimetre."""
    x, top, bottom = box[2] + 6, box[1], box[3]
    for half in range(int((bottom - top) * spacing_mm / 5) + 1):
        y = top + round(half * 5 / spacing_mm)
        whole = half % 2 == 0
        draw.line((x, y, x + (9 if whole else 5), y), fill=_TEXT)
        if whole:
            draw.text((x + 13, y), str(half // 2), _QUIET, _font(12), anchor="lm")
    draw.text((x + 13, bottom + 10), "cm", _QUIET, _font(12), anchor="lm")


def _vessels(
    rng: np.random.Generator, rows: int, columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Speed in [-1, 1] and how surely there is flow, for a few winding vessels."""
    sure = np.zeros((rows, columns))
    speed = np.zeros((rows, columns))
    y, x = np.mgrid[0:rows, 0:columns]
    for number in range(4):
        middle = rows * (0.2 + 0.2 * number)
        course = middle + rows * 0.07 * np.sin(x / columns * rng.uniform(4, 9) + rng.uniform(0, 6))
        start, end = np.sort(rng.uniform(0, columns, 2))
        along = (x > start) & (x < max(end, start + columns * 0.35))
        within = np.exp(-(((y - course) / (rows * 0.028)) ** 2)) * along
        direction = 1 if number % 2 == 0 else -1
        speed = np.where(within > sure, direction * within, speed)
        sure = np.maximum(sure, within)
    noise = cv2.GaussianBlur(rng.standard_normal((rows, columns)), (0, 0), 2.5)
    return np.clip(speed + 0.6 * noise, -1, 1), sure


def _velocity_colours(speed: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Red to yellow towards the probe, blue to cyan away from it."""
    size = np.abs(speed)
    towards = np.stack([120 + 135 * size, 210 * size**1.5, 20 * size], axis=-1)
    away = np.stack([20 * size, 200 * size**1.5, 120 + 135 * size], axis=-1)
    return np.where((speed >= 0)[..., None], towards, away).astype(np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow's own font: the picture must not depend on what a machine has installed.
    return ImageFont.load_default(size)
