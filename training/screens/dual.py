"""One screen -> one pair: every step from the panes to the quality of what was found."""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_node.dicom.colour import ColourKind, measure_colour
from dicom_node.dicom.pixels import luma
from dicom_node.dicom.regions import Box
from model.colormap import ColorMap, overlay
from training.screens.bar import Bar, find_bar, why_not_invertible
from training.screens.blend import Blend, estimate_blend
from training.screens.overlay import Recovered, fill_in, marks_on, recover, tint_of, untinted
from training.screens.panes import Panes, Rgb, coloured, cut, find_panes, high_pass
from training.screens.quality import Quality
from training.screens.reasons import Reason, Rejection
from training.screens.register import correlation, find_shift, moved
from training.screens.tables import FROM_BAR, Polarity, hard_first, named_table

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

MIN_SIDE = 64
_SATURATED = 4.0 / 255
"""A bar of few rows, blurred at its ends, gives the last entries one colour."""
_SHOWS_THROUGH = 0.9


@dataclass(frozen=True)
class Reading:
    """What a site says of its scanner, as far as pixels need it."""

    polarity: Polarity
    lut: str = FROM_BAR
    panes: tuple[Box, Box] | None = None
    bar: Box | None = None
    threshold: float = 0.5


@dataclass(frozen=True, eq=False)
class Found:
    """What was found on a screen, for the record and for the eye, whether or not it makes a pair."""

    panes: Panes | None = None
    bar: Bar | None = None
    colormap: ColorMap | None = None
    blend: Blend | None = None
    shift: tuple[float, float] | None = None
    quality: Quality | None = None
    roi: Box | None = None
    """x0, y0, x1, y1 in the panes: what the four below are cut to."""
    bmode: NDArray[np.uint8] | None = None
    """(H, W), the plain pane in the region of interest, without marks."""
    overlay: Rgb | None = None
    """(H, W, 3), the coloured pane there."""
    strain: Floats | None = None
    """(H, W) in [0, 1], 1 soft, on the pixels of `bmode`."""
    masked: Mask | None = None
    rejection: Rejection | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest says of it; nothing of the patient."""
        facts: dict[str, Any] = {}
        if self.panes is not None:
            facts["panes"] = {
                "bmode": list(self.panes.clean),
                "overlay": list(self.panes.coloured),
                "found_by": self.panes.found_by,
            }
        if self.roi is not None:
            facts["roi"] = list(self.roi)
        if self.bar is not None:
            facts["bar"] = {"box": list(self.bar.box), "found_by": self.bar.found_by}
        if self.colormap is not None:
            facts["lut"] = {"name": self.colormap.name, "sha256": self.colormap.sha256}
        if self.blend is not None:
            facts["alpha"] = round(self.blend.alpha, 4)
            facts["alpha_by_speckle"] = round(self.blend.by_speckle, 4)
            facts["alpha_by_chroma"] = round(self.blend.by_chroma, 4)
        if self.shift is not None:
            facts["shift_px"] = [round(v, 3) for v in self.shift]
        if self.quality is not None:
            facts["quality"] = self.quality.to_json()
        return facts


def read_dual_view(
    rgb: Rgb, reading: Reading, tissue: tuple[Box, ...] = (), bars: tuple[Box, ...] = ()
) -> Found:
    """Read the pair off a screen, uint8 (H, W, 3).

    tissue, bars  boxes that DICOM regions give for tissue and colour bars; empty for pictures.
    """
    panes = find_panes(rgb, tissue, reading.panes)
    if isinstance(panes, Rejection):
        return Found(bar=_bar_alone(rgb, bars), rejection=panes)
    table = _table(rgb, reading, panes, bars)
    if isinstance(table, Rejection):
        flow = measure_colour(cut(rgb, panes.coloured)).kind() is ColourKind.FLOW
        return Found(panes, rejection=_flow(rgb, panes) if flow else table)
    bar, colormap = table
    return _through(rgb, reading, Found(panes, bar, colormap))


def _bar_alone(rgb: Rgb, bars: tuple[Box, ...]) -> Bar | None:
    bar = find_bar(rgb, (), bars)
    return bar if isinstance(bar, Bar) else None


def _table(
    rgb: Rgb, reading: Reading, panes: Panes, bars: tuple[Box, ...]
) -> tuple[Bar | None, ColorMap] | Rejection:
    if reading.lut != FROM_BAR:
        table = named_table(reading.lut)
        fact = why_not_invertible(table.astype(np.float32))
        if fact is not None:
            return Rejection(Reason.BAR_NOT_INVERTIBLE, fact)
        return None, hard_first(reading.lut, table, reading.polarity)
    stated = (reading.bar,) if reading.bar is not None else bars
    bar = find_bar(rgb, (panes.clean, panes.coloured), stated)
    if isinstance(bar, Rejection):
        return bar
    return bar, hard_first(FROM_BAR, bar.table, reading.polarity)


def _flow(rgb: Rgb, panes: Panes) -> Rejection:
    measure = measure_colour(cut(rgb, panes.coloured))
    return Rejection(
        Reason.FLOW, f"{measure.share:.1%} of the pane is coloured, {measure.fill:.0%} of its box"
    )


def _through(rgb: Rgb, reading: Reading, found: Found) -> Found:
    assert found.panes is not None
    assert found.colormap is not None
    panes, colormap = found.panes, found.colormap
    plain, over = cut(rgb, panes.clean), cut(rgb, panes.coloured)
    grey = luma(plain)
    shift = find_shift(grey, luma(over))
    under = moved(grey, shift)
    tint = tint_of(plain)
    # The borders of the coloured area are no blend, and marks on the plain pane are no tissue.
    area = cv2.erode((coloured(over) & ~coloured(plain)).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    if int(area.sum()) < MIN_SIDE * MIN_SIDE // 4:
        rejection = Rejection(
            Reason.TOO_SMALL, f"{int(area.sum())} pixels of it lie away from borders and marks"
        )
        return replace(found, shift=shift, rejection=rejection)
    blend = estimate_blend(over.astype(np.float32), under, area, colormap)
    if bool(np.abs(tint).max() > 0.01):
        neutral = untinted(over.astype(np.float32), under, tint, 1 - blend.alpha)
        blend = estimate_blend(neutral, under, area, colormap)
    else:
        neutral = over.astype(np.float32)
    recovered = recover(neutral, colormap, blend.alpha)
    found = replace(found, shift=shift, blend=blend)
    if recovered is None:
        return replace(
            found, rejection=Rejection(Reason.TOO_MUCH_MASKED, "no colour of the overlay is the table's")
        )
    return _judged(found, reading, plain, over, neutral, under, tint, recovered)


def _judged(
    found: Found,
    reading: Reading,
    plain: Rgb,
    over: Rgb,
    neutral: Floats,
    under: Floats,
    tint: Floats,
    recovered: Recovered,
) -> Found:
    assert found.blend is not None
    assert found.colormap is not None
    assert found.shift is not None
    x0, y0, x1, y1 = recovered.roi
    inside = slice(y0, y1), slice(x0, x1)
    masked = recovered.masked
    quality = Quality(
        masked_share=float(masked[inside].mean()),
        left_out=_left_out(coloured(over), recovered.roi),
        distance=recovered.distance,
        residual=_residual(neutral[inside], under[inside], recovered.strain[inside], masked[inside], found),
        disagreement=abs(found.blend.alpha - found.blend.by_chroma),
        correlation=_correlation(over, under, recovered, found.blend),
        saturated_share=_saturated(recovered.strain[inside], masked[inside]),
    )
    # Onto the plain pane's pixels: strain is smooth and bears resampling, speckle does not.
    back = (-found.shift[0], -found.shift[1])
    strain = np.clip(moved(recovered.strain, back), 0.0, 1.0)
    hidden = moved(masked.astype(np.float32), back) > 0.5
    bmode = fill_in(luma(plain), marks_on(plain, hidden, tint), recovered.roi)
    found = replace(
        found,
        quality=quality,
        roi=recovered.roi,
        bmode=bmode[inside],
        overlay=over[inside],
        strain=strain[inside],
        masked=hidden[inside],
    )
    rejection = quality.judge(reading.threshold)
    if rejection is not None and _is_flow(over):
        rejection = Rejection(Reason.FLOW, rejection.fact)
    if rejection is None and min(x1 - x0, y1 - y0) < MIN_SIDE:
        rejection = Rejection(Reason.TOO_SMALL, f"the overlay fills {x1 - x0} x {y1 - y0} pixels")
    return replace(found, rejection=rejection)


def _left_out(tinted: Mask, roi: Box) -> float:
    """Share of the coloured area that lies outside the region: colours of another table, mostly."""
    x0, y0, x1, y1 = roi
    return 1.0 - float(tinted[y0:y1, x0:x1].sum()) / max(int(tinted.sum()), 1)


def _is_flow(over: Rgb) -> bool:
    return measure_colour(over).kind() is ColourKind.FLOW


def _residual(neutral: Floats, under: Floats, strain: Floats, masked: Mask, found: Found) -> float:
    """Levels between the screen and what the linear model makes of the findings, speckle smoothed away."""
    assert found.blend is not None
    assert found.colormap is not None
    bmode = np.clip(np.round(under), 0, 255).astype(np.uint8)
    again = overlay(strain, bmode, found.colormap, found.blend.alpha)
    off = cv2.GaussianBlur(neutral - again, (0, 0), 2.0)
    seen = ~masked
    return float(np.abs(off).mean(axis=-1)[seen].mean()) if bool(seen.any()) else 255.0


def _correlation(over: Rgb, under: Floats, recovered: Recovered, blend: Blend) -> float | None:
    """Of fine structure: under colour as far as speckle shows through, or beside the region of interest."""
    fine, beneath = high_pass(luma(over)), high_pass(under)
    x0, y0, x1, y1 = recovered.roi
    inside = np.zeros(fine.shape, dtype=bool)
    inside[y0:y1, x0:x1] = True
    margin = cv2.dilate(inside.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    measured = []
    if blend.alpha < _SHOWS_THROUGH:
        measured.append(correlation(fine, beneath, inside & ~recovered.masked))
    if float((~margin).mean()) > 0.1:
        measured.append(correlation(fine, beneath, ~margin))
    return max(measured) if measured else None


def _saturated(strain: Floats, masked: Mask) -> float:
    seen = strain[~masked]
    return float(((seen < _SATURATED) | (seen > 1 - _SATURATED)).mean()) if seen.size else 1.0
