"""The colour bar of a screen: where it is, and the table that it shows.

A bar is thin, of one colour across, and its colours run along a path that never comes back to itself. Its
place along the bar is the value, so the table is read by place; length along the path of chroma only tells
whether it is a bar, and whether a colour gives one value.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_node.dicom.regions import Box
from model.colormap import chroma_of
from training.screens.panes import chroma_length
from training.screens.reasons import Reason, Rejection

Rgb = NDArray[np.uint8]
Path = NDArray[np.float32]

_COLOURED = 40.0
_MIN_LENGTH, _MIN_WIDTH, _MIN_ASPECT = 48, 3, 4.0
_MIN_PATH = 250.0
"""Levels of chroma that a path must run through; jet runs through 1000, one ramp of a colour through 200."""
_MOST_ACROSS = 14.0
"""Levels by which colours across a bar may differ; JPEG at quality 75 leaves up to 9."""
_GREY = 24.0
_MOST_GREY = 0.04
_FADED = 60.0
"""Chroma at an end of a bar; the dark ends of jet have 104, where black or white begins there are 40."""
_APART_ENTRIES, _APART_LEVELS = 24, 12.0
"""Entries so far apart must differ by so much chroma, or noise takes one for the other."""


@dataclass(frozen=True, eq=False)
class Bar:
    """A colour bar."""

    box: Box
    table: NDArray[np.uint8]
    """uint8 (256, 3) RGB, low end (bottom or left) first."""
    found_by: str
    """content or regions."""


def find_bar(rgb: Rgb, panes: tuple[Box, ...] = (), regions: tuple[Box, ...] = ()) -> Bar | Rejection:
    """Find the colour bar of a screen, uint8 (H, W, 3).

    panes    searched last: what they hold is mostly tissue.
    regions  boxes of DICOM regions of type colour bar: searched first, and believed if a bar is there.
    """
    worst = Rejection(Reason.NO_BAR, "nothing thin runs through a path of colours")
    for areas, found_by in ((regions, "regions"), (None, "content")):
        for box, path in _candidates(rgb, panes, areas):
            fact = _why_cut_short(path) or why_not_invertible(path)
            if fact is None:
                return Bar(box, _resampled(path), found_by)
            worst = Rejection(Reason.BAR_NOT_INVERTIBLE, fact)
    return worst


def why_not_invertible(path: Path) -> str | None:
    """Say why the chroma of a table, (N, 3) RGB, does not give one value, or None if it does."""
    chroma = chroma_of(path)
    grey = float((np.linalg.norm(chroma, axis=-1) < _GREY).mean())
    if grey > _MOST_GREY:
        return f"{grey:.0%} of the colour bar is grey"
    even = chroma[np.linspace(0, len(chroma) - 1, 256).round().astype(int)]
    apart = np.linalg.norm(even[:, None] - even[None], axis=-1)
    i, j = np.indices(apart.shape)
    nearest = float(apart[np.abs(i - j) >= _APART_ENTRIES].min())
    if nearest < _APART_LEVELS:
        return f"two places far apart on the colour bar differ by {nearest:.0f} levels of chroma"
    return None


def _why_cut_short(path: Path) -> str | None:
    """Say that colours fade into grey at an end: then the bar goes on where colour no longer shows it."""
    inset = min(3, len(path) // 16)
    faintest = min(float(np.linalg.norm(chroma_of(path[i]))) for i in (inset, -1 - inset))
    return f"the colour bar fades into grey at an end ({faintest:.0f} levels)" if faintest < _FADED else None


def _candidates(
    rgb: Rgb, panes: tuple[Box, ...], areas: tuple[Box, ...] | None
) -> Iterator[tuple[Box, Path]]:
    """Yield what looks like a bar, the longest path first: outside the panes, then anywhere."""
    for hidden in (panes, ()) if areas is None else ((),):
        found = []
        for box, upright in _strips(rgb, hidden, areas):
            x0, y0, x1, y1 = box
            strip = rgb[y0:y1, x0:x1].astype(np.float32)
            path = _path(strip if upright else strip.transpose(1, 0, 2)[::-1])
            if path is not None:
                steps = np.linalg.norm(np.diff(_smooth(chroma_of(path)), axis=0), axis=-1)
                found.append((float(steps.sum()), box, path))
        found = [one for one in found if one[0] >= _MIN_PATH]
        yield from ((box, path) for _, box, path in sorted(found, key=lambda one: -one[0]))


def _strips(rgb: Rgb, hidden: tuple[Box, ...], areas: tuple[Box, ...] | None) -> Iterator[tuple[Box, bool]]:
    """Yield boxes of thin coloured areas, and whether they stand upright."""
    tinted = (chroma_length(rgb) > _COLOURED).astype(np.uint8)
    for x0, y0, x1, y1 in hidden:
        tinted[y0:y1, x0:x1] = 0
    if areas is not None:
        allowed = np.zeros_like(tinted)
        for x0, y0, x1, y1 in areas:
            allowed[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3] = 1
        tinted &= allowed
    for upright in (True, False):
        plane = tinted if upright else tinted.T
        # Thin strokes go; what is parted by a dark middle, as the bar of a Doppler scale, comes together.
        opened = cv2.morphologyEx(
            np.ascontiguousarray(plane), cv2.MORPH_OPEN, np.ones((9, _MIN_WIDTH), np.uint8)
        )
        joined = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((25, 1), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(joined)
        for x, y, width, height, filled in stats[1:].tolist():
            if height < max(_MIN_LENGTH, _MIN_ASPECT * width) or filled < 0.8 * width * height:
                continue
            yield ((x, y, x + width, y + height) if upright else (y, x, y + height, x + width)), upright


def _path(strip: NDArray[np.float32]) -> Path | None:
    """The colours (N, 3) along an upright strip, from below; None if it is not of one colour across."""
    width = strip.shape[1]
    middle = strip[:, width // 4 : max(width // 4 + 1, width - width // 4)]
    path = np.median(middle, axis=1)
    across = np.abs(middle - path[:, None]).mean(axis=(1, 2))
    if float(np.median(across)) > _MOST_ACROSS:
        return None
    return np.asarray(path[::-1], dtype=np.float32)


def _smooth(path: Path) -> Path:
    return np.asarray(cv2.GaussianBlur(path, (1, 9), 2.0), dtype=np.float32)


def _resampled(path: Path) -> NDArray[np.uint8]:
    """Bring the colours along a bar to 256 entries by their place; ends blurred into the frame are repeated
    from the rows beside them."""
    n = len(path)
    chroma = chroma_of(path)
    steps = np.linalg.norm(np.diff(chroma, axis=0), axis=-1)
    usual = 4.0 * float(np.median(steps)) + 6.0
    ends = min(4, n // 16)
    low = max((i + 1 for i in range(ends) if steps[i] > usual), default=0)
    high = min((n - 1 - i for i in range(ends) if steps[-1 - i] > usual), default=n)
    places = (np.arange(n) + 0.5) / n
    wanted = np.linspace(0.0, 1.0, 256)
    channels = [np.interp(wanted, places[low:high], path[low:high, c]) for c in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)
