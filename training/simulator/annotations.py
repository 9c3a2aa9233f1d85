"""Marks that operators leave in the picture: callipers, a body-side label, a corner logo.

They mean nothing for stiffness; a network that has never seen them takes them for tissue.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.simulator.anatomy import Phantom

CALLIPER_SHARE = 0.25
TEXT_SHARE = 0.2
_WORDS = ("LEFT BREAST", "RT", "LT 3", "AXILLA", "R 10H", "2 CM FN", "L")


def annotate(rng: np.random.Generator, bmode: NDArray[np.uint8], phantom: Phantom) -> None:
    """Draw marks into the frame, in place, as often as they are seen in practice."""
    height, width = bmode.shape
    if phantom.lesion is not None and rng.random() < CALLIPER_SHARE:
        mask = phantom.lesion.mask[:, phantom.margin : phantom.margin + width]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size and columns.size:
            y, x = int(rows.mean()), int(columns.mean())
            _calliper(bmode, (int(columns[0]), y), (int(columns[-1]), y))
            _calliper(bmode, (x, int(rows[0])), (x, int(rows[-1])))
    if rng.random() < TEXT_SHARE:
        at = (int(rng.integers(2, max(3, width - 90))), int(rng.integers(height - 30, height - 4)))
        cv2.putText(bmode, str(rng.choice(_WORDS)), at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 235, 1)
    if rng.random() < TEXT_SHARE:
        cv2.putText(bmode, "Q", (1, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 220, 1)


def _calliper(bmode: NDArray[np.uint8], a: tuple[int, int], b: tuple[int, int]) -> None:
    """Two crosses joined by a dotted line."""
    for point in (a, b):
        cv2.drawMarker(bmode, point, 225, cv2.MARKER_CROSS, 7, 1)
    n = max(2, int(np.hypot(b[0] - a[0], b[1] - a[1]) / 4))
    for t in np.linspace(0, 1, n):
        x, y = round(a[0] + t * (b[0] - a[0])), round(a[1] + t * (b[1] - a[1]))
        if 0 <= y < bmode.shape[0] and 0 <= x < bmode.shape[1]:
            bmode[y, x] = 220
