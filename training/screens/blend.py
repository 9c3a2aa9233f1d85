"""How much of an overlay is colour: rgb = alpha x table(strain) + (1 - alpha) x B-mode."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model.colormap import ColorMap, chroma_of, match

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

_ROUNDS = 4
_OUTLIER = 3.0
_OPAQUE = 0.985
_FAINTEST = 0.05


@dataclass(frozen=True)
class Blend:
    """The share of colour, by two ways that know nothing of each other."""

    alpha: float
    """(0, 1]; what is used."""
    by_speckle: float
    """From how much of the plain pane's speckle shines through."""
    by_chroma: float
    """At which the overlay's colours lie closest to the table's."""
    explained: float
    """Share of the fine structure under colour that the plain pane explains, 0 to 1."""


def band_pass(picture: NDArray[np.generic]) -> Floats:
    """Speckle without the finest pixels, which resampling and JPEG change, and without strain."""
    values = picture.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(values, (0, 0), 0.8) - cv2.GaussianBlur(values, (0, 0), 3.0))


def estimate_blend(overlay: Floats, bmode: Floats, where: Mask, colormap: ColorMap) -> Blend:
    """Estimate the share of colour.

    overlay  float32 (H, W, 3), the coloured pane; bmode float32 (H, W), the plain one moved onto it.
    where    the pixels under colour.
    """
    by_speckle, explained = _through_colour(overlay, bmode, where)
    by_chroma = _by_chroma(chroma_of(overlay[where]), colormap)
    # Speckle is exact where it shows. Where little of it does, or JPEG has spoilt it, colours tell better.
    alpha = by_speckle if explained >= 0.5 else by_chroma
    return Blend(1.0 if alpha > _OPAQUE else max(alpha, _FAINTEST), by_speckle, by_chroma, explained)


def _through_colour(overlay: Floats, bmode: Floats, where: Mask) -> tuple[float, float]:
    """Regress fine RGB on fine B-mode, leaving out, in rounds, what text and markers have spoilt."""
    y, x = band_pass(overlay)[where].mean(axis=-1), band_pass(bmode)[where]
    keep = np.ones(len(x), dtype=bool)
    slope = 0.0
    for _ in range(_ROUNDS):
        slope = float((y[keep] * x[keep]).sum() / max(float((x[keep] ** 2).sum()), 1e-6))
        residual = y - slope * x
        keep = np.abs(residual) <= _OUTLIER * max(float(residual[keep].std()), 0.25)
    left = float((residual[keep] ** 2).sum()) / max(float((y[keep] ** 2).sum()), 1e-6)
    return 1.0 - slope, float(np.clip(1.0 - left, 0.0, 1.0))


def _by_chroma(chroma: Floats, colormap: ColorMap) -> float:
    """The alpha at which chroma (N, 3) lies closest to the table's, in levels of the screen."""
    some = chroma[:: max(1, len(chroma) // 3000)]

    def away(alpha: float) -> float:
        return alpha * float(np.median(match(some, colormap, alpha)[1]))

    best = 0.525
    for step, span in ((0.05, 0.95), (0.01, 0.05), (0.002, 0.01)):
        tried = np.clip(np.arange(best - span / 2, best + span / 2 + step / 2, step), _FAINTEST, 1.0)
        best = min((float(a) for a in tried), key=away)
    return best
