"""Dual-view screens drawn for the tests: what a scanner shows, with the strain that was meant."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_objects import speckle

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Drawn:
    """A screen and its truth."""

    rgb: NDArray[np.uint8]
    bmode: NDArray[np.uint8]
    strain: NDArray[np.float32]
    """1 is soft; the size of a pane."""
    clean: Box
    coloured: Box
    roi: Box
    """In the pane."""
    bar: Box | None


@dataclass(frozen=True)
class Look:
    """How a scanner draws."""

    table: NDArray[np.uint8]
    """uint8 (256, 3), low end first."""
    soft_high: bool = True
    alpha: float = 0.5
    swapped: bool = False
    """The overlay lies left of (or above) the plain pane."""
    stacked: bool = False
    bar: str = "right"
    """left, right or none."""
    margins: tuple[int, int] = (60, 40)
    """Left and top of the first pane."""
    gap: int = 14
    pane: tuple[int, int] = (240, 220)
    roi: tuple[int, int, int, int] | None = (20, 24, 205, 200)
    """x0, y0, x1, y1 in the pane; None for an overlay that fills it."""
    marks: bool = True
    blend: str = "linear"
    shift: tuple[float, float] = (0.0, 0.0)
    """How much the coloured pane's content lies right of and below the plain one's."""
    tint: tuple[float, float, float] = field(default=(1.0, 1.0, 1.0))
    jpeg: int | None = None
    seed: int = 1


def strain_field(rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    """A smooth field with a hard lesion, all of [0.03, 0.97] in use."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(rows, columns)).astype(np.float32), (0, 0), 14)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    y, x = np.mgrid[:rows, :columns]
    away = np.hypot((y - rows / 2) / (rows / 6), (x - columns / 2) / (columns / 6))
    lesion = 1 / (1 + np.exp(-(away - 1) * 5))
    field = noise * (0.25 + 0.75 * lesion)
    field = (field - field.min()) / (field.max() - field.min())
    return (0.03 + 0.94 * field).astype(np.float32)


def draw(look: Look) -> Drawn:
    """Draw a screen."""
    rows, columns = look.pane
    bmode = speckle(rows, columns, seed=look.seed)
    strain = strain_field(rows, columns, look.seed + 100)
    x0, y0, x1, y1 = look.roi or (0, 0, columns, rows)
    index = np.round((strain if look.soft_high else 1 - strain) * 255).astype(int)
    colour = look.table[index].astype(np.float32)
    grey = bmode[..., None] * np.array(look.tint, np.float32)
    blends = {
        "linear": look.alpha * colour + (1 - look.alpha) * grey,
        "value": colour * grey / 255,  # the overlay's brightness is the B-mode's
    }
    mixed = blends[look.blend]
    over = grey.copy()
    over[y0:y1, x0:x1] = mixed[y0:y1, x0:x1]
    if look.shift != (0.0, 0.0):
        moved = np.array([[1, 0, look.shift[0]], [0, 1, look.shift[1]]], np.float32)
        over = cv2.warpAffine(
            over, moved, (columns, rows), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
    over, plain = (np.clip(np.round(p), 0, 255).astype(np.uint8) for p in (over, grey))
    if look.marks:
        _mark(over, look.roi)
        _mark(plain, look.roi)
    left, top = look.margins
    step = (0, rows + look.gap) if look.stacked else (columns + look.gap, 0)
    first, second = (over, plain) if look.swapped else (plain, over)
    height = top + rows + 50 + step[1]
    width = left + columns + step[0] + 90
    screen = np.full((height, width, 3), 8, np.uint8)
    a = (left, top, left + columns, top + rows)
    b = (a[0] + step[0], a[1] + step[1], a[2] + step[0], a[3] + step[1])
    for box, picture in ((a, first), (b, second)):
        screen[box[1] : box[3], box[0] : box[2]] = picture
    font = cv2.FONT_HERSHEY_SIMPLEX
    if look.marks:
        cv2.putText(screen, "DOE JANE 1970", (left, 25), font, 0.6, (230, 230, 230), 1, cv2.LINE_AA)
        cv2.putText(screen, "MI 1.1 FR 22", (left, height - 20), font, 0.5, (90, 200, 240), 1, cv2.LINE_AA)
    bar = None
    if look.bar != "none":
        at = width - 40 if look.bar == "right" else 18
        bar = (at, top + 10, at + 12, top + 10 + 180)
        rows_of_bar = np.round(np.linspace(255, 0, 180)).astype(int)
        screen[bar[1] : bar[3], bar[0] : bar[2]] = look.table[rows_of_bar][:, None]
        if look.marks:
            high, low = ("Soft", "Hard") if look.soft_high else ("Hard", "Soft")
            cv2.putText(screen, high, (at - 10, bar[1] - 5), font, 0.4, (240, 240, 240), 1, cv2.LINE_AA)
            cv2.putText(screen, low, (at - 10, bar[3] + 14), font, 0.4, (240, 240, 240), 1, cv2.LINE_AA)
    if look.jpeg is not None:
        screen = through_jpeg(screen, look.jpeg)
    clean, coloured = (b, a) if look.swapped else (a, b)
    return Drawn(screen, bmode, strain, clean, coloured, (x0, y0, x1, y1), bar)


def through_jpeg(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Compress and decompress; OpenCV halves chroma in both directions (4:2:0)."""
    flags = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], flags)
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _mark(pane: NDArray[np.uint8], roi: Box | None) -> None:
    """Burn in what scanners and people do: a box, callipers, an outline, words."""
    rows, columns = pane.shape[:2]
    if roi is not None:
        cv2.rectangle(pane, (roi[0], roi[1]), (roi[2] - 1, roi[3] - 1), (255, 170, 40), 1)
    for x, y in ((columns // 3, rows // 2), (2 * columns // 3, rows // 2)):
        cv2.drawMarker(pane, (x, y), (255, 255, 255), cv2.MARKER_CROSS, 11, 1)
    cv2.putText(
        pane, "1 D 12.3mm", (columns // 3, rows - 60), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1
    )
