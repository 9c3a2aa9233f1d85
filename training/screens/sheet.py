"""Contact sheets: what was found on each screen, for the eye of whoever prepares the data."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from model.colormap import get_colormap, render
from training.replacing import replacing
from training.screens.dual import Found
from training.screens.panes import Rgb

_WIDTH, _HEIGHT, _TEXT, _GAP = 200, 150, 36, 4
_COLUMNS = 4
ROWS = 12
_SMALLEST, _SHRINK = 96, 8
"""Screens without panes are shown with no side longer than this, and reduced at least so many times, that
no name on them can be read."""
_WHITE, _RED, _GREEN = (235, 235, 235), (255, 110, 90), (120, 230, 130)


def strip_of(found: Found, screen: Rgb, title: str, verdict: str) -> Rgb:
    """Draw one screen: B-mode, overlay with what was masked, recovered strain, bar; above it its name.

    Nothing beyond the region of interest is drawn of a screen, where names and numbers stand.
    """
    rejected = found.rejection is not None
    cells: list[Rgb] = []
    if found.bmode is not None and found.overlay is not None and found.strain is not None:
        shown = found.overlay.copy()
        if found.masked is not None:
            shown[found.masked] = (255, 0, 255)
        cells = [
            np.repeat(found.bmode[..., None], 3, axis=2),
            found.overlay,
            shown,
            render(found.strain, get_colormap("emode-rainbow", 1)),
        ]
    else:
        times = max(_SHRINK, max(screen.shape[:2]) / _SMALLEST)
        reduced = [max(1, round(side / times)) for side in screen.shape[:2]]
        small = cv2.resize(screen, (reduced[1], reduced[0]), interpolation=cv2.INTER_AREA)
        cells = [np.asarray(small, dtype=np.uint8)]
    width = _COLUMNS * (_WIDTH + _GAP) + 40
    strip = np.full((_HEIGHT + _TEXT + _GAP, width, 3), 40 if rejected else 20, np.uint8)
    for i, cell in enumerate(cells):
        fitted = _fit(cell)
        x = i * (_WIDTH + _GAP)
        strip[_TEXT : _TEXT + fitted.shape[0], x : x + fitted.shape[1]] = fitted
    if found.colormap is not None:
        ramp = found.colormap.table[::-1][np.linspace(0, 255, _HEIGHT).round().astype(int)]
        strip[_TEXT : _TEXT + _HEIGHT, -30:-10] = ramp[:, None]
    _write(strip, title, 14, _WHITE)
    _write(strip, verdict, 30, _RED if rejected else _GREEN)
    if rejected:
        cv2.rectangle(strip, (0, 0), (width - 1, strip.shape[0] - 1), _RED, 2)
    return strip


def write_picture(path: Path, rgb: Rgb) -> None:
    """Write a PNG; a file that is there is whole."""
    _, data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    with replacing(path) as file:
        file.write(data.tobytes())


def read_picture(path: Path) -> Rgb:
    """Read a picture that `write_picture` wrote."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def write_sheets(folder: Path, strips: Sequence[Path]) -> list[Path]:
    """Put strips, PNG files, together to sheets of twelve; sheets of before are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for first in range(0, len(strips), ROWS):
        page = [read_picture(path) for path in strips[first : first + ROWS]]
        path = folder / f"sheet-{first // ROWS + 1:03d}.png"
        write_picture(path, np.concatenate(page))
        written.append(path)
    for old in sorted(set(folder.glob("sheet-*.png")) - set(written)):
        old.unlink()
    return written


def _fit(cell: Rgb) -> Rgb:
    scale = min(_WIDTH / cell.shape[1], _HEIGHT / cell.shape[0])
    size = (max(1, int(cell.shape[1] * scale)), max(1, int(cell.shape[0] * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(cell, size, interpolation=way), dtype=np.uint8)


def _write(strip: Rgb, words: str, y: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(strip, words, (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
