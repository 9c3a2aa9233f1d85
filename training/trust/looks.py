"""The same tissue as other scanners, presets and hands would show it."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

_WRITING = list("LTRUOIQ 0123456789")


def vary(rng: np.random.Generator, frame: Frame) -> Frame:
    """Show a frame uint8 (H, W) with another depth, width, gain, grey curve, filter, border and writing.

    The ranges are wider than one hospital's scanners differ: a reference fitted on one collection has to
    hold for others.
    """
    image = _cut(rng, frame).astype(np.float32)
    image = _post_process(rng, image)
    shown = np.clip(image, 0, 255).astype(np.uint8)
    for share, change in ((0.1, _margins), (0.04, _steered), (0.15, _written)):
        if rng.random() < share:
            change(rng, shown)
    return _on_screen(rng, shown) if rng.random() < 0.1 else shown


def _cut(rng: np.random.Generator, frame: Frame) -> Frame:
    """Another depth and width, and pixels that are not square, as in exported stills."""
    height, width = frame.shape
    rows, columns = round(height * rng.uniform(0.65, 1.0)), round(width * rng.uniform(0.65, 1.0))
    left = int(rng.integers(0, width - columns + 1))
    # Mostly from the skin on; a cut by hand may begin below it.
    top = int(rng.integers(0, height - rows + 1)) if rng.random() < 0.3 else 0
    cut = frame[top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    wide = max(64, round(columns * rng.uniform(0.8, 1.25)))
    return np.asarray(cv2.resize(np.ascontiguousarray(cut), (wide, rows), interpolation=cv2.INTER_LINEAR))


def _post_process(rng: np.random.Generator, image: Floats) -> Floats:
    sigma = float(rng.choice([0.0, 0.7, 1.2, 2.0]))
    if sigma:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
    elif rng.random() < 0.3:
        # Edge enhancement.
        image = image + rng.uniform(0.3, 1.0) * (image - cv2.GaussianBlur(image, (0, 0), 1.5))
    image = 255 * (np.clip(image, 0, 255) / 255) ** rng.uniform(0.65, 1.5)
    ramp = np.linspace(-0.5, 0.5, len(image), dtype=np.float32)[:, None] * rng.uniform(-40, 40)
    lit = image > 15
    return np.asarray(image * rng.uniform(0.75, 1.3) + (rng.uniform(-15, 15) + ramp) * lit, np.float32)


def _margins(rng: np.random.Generator, image: Frame) -> None:
    """A black border that the cut left on, on any side."""
    height, width = image.shape
    for view, length in ((image.T, width), (image.T[::-1], width), (image[::-1], height)):
        if rng.random() < 0.6:
            view[: round(length * rng.uniform(0, 0.08))] = 0


def _steered(rng: np.random.Generator, image: Frame) -> None:
    """Corners cut off where a linear probe steers its outer beams."""
    height, width = image.shape
    deep, across = rng.uniform(0.1, 0.4) * height, rng.uniform(0.03, 0.12) * width
    y, x = np.mgrid[0:height, 0:width]
    for distance in (x, width - 1 - x):
        if rng.random() < 0.8:
            image[distance / across + y / deep < 1] = 0


def _written(rng: np.random.Generator, image: Frame) -> None:
    """Calipers and a line of writing."""
    height, width = image.shape
    size = max(6, round(0.02 * width))
    ends = [(int(rng.integers(size, width - size)), int(rng.integers(size, height - size))) for _ in range(2)]
    for end in ends:
        cv2.drawMarker(image, end, 255, cv2.MARKER_CROSS, size, 1)
    if rng.random() < 0.5:
        cv2.line(image, ends[0], ends[1], 200, 1)
    words = "".join(rng.choice(_WRITING, 8))
    place = (int(rng.integers(0, max(1, width // 2))), int(rng.integers(height // 2, height - 4)))
    cv2.putText(image, words, place, cv2.FONT_HERSHEY_SIMPLEX, width / 1200 + 0.2, 230, 1, cv2.LINE_AA)


def _on_screen(rng: np.random.Generator, picture: Frame) -> Frame:
    """With the scanner's screen around it, as where the region that a scanner names is too large."""
    height, width = picture.shape
    rows, columns = round(height * rng.uniform(1.03, 1.35)), round(width * rng.uniform(1.1, 1.5))
    screen = np.zeros((rows, columns), np.uint8)
    top, left = round((rows - height) * rng.uniform(0, 0.6)), round((columns - width) * rng.uniform(0.3, 0.7))
    line = max(8, round(0.03 * rows))
    for y in range(line, round(rows * rng.uniform(0.1, 0.6)), line):
        words = "".join(rng.choice(_WRITING, 10))
        cv2.putText(screen, words, (2, y), cv2.FONT_HERSHEY_SIMPLEX, line / 40, 200, 1, cv2.LINE_AA)
    bar = np.linspace(255, 0, round(0.3 * rows)).astype(np.uint8)[:, None]
    start = columns - max(6, columns // 40)
    screen[line : line + len(bar), start - max(4, columns // 60) : start] = bar
    screen[top : top + height, left : left + width] = picture
    return screen
