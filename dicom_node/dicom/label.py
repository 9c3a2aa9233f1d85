"""The result picture: panes side by side, and the words and marks burned in around them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from dicom_node.dicom.lettering import Colour, Lettering, check_glyphs, lettering
from dicom_node.dicom.pixels import Bytes
from dicom_node.dicom.regions import Box

Layout = Literal["side-by-side", "emode"]

UNFAMILIAR_WORDS = "UNFAMILIAR IMAGE"
"""Follow the label on results of frames that the model was not made for."""

_AMBER: Colour = (255, 191, 0)
_LIGHT: Colour = (200, 200, 200)
_DIM: Colour = (140, 140, 140)
_LINE: Colour = (70, 70, 70)

_LEGIBLE_SIDE = 256
"""Pixels. A pane whose short side is smaller is enlarged by a whole factor, so that words fit around it."""
_LARGEST_SIDE = 1600
MIN_CAP = 9
"""Pixels. Capitals under this are hard to read on a diagnostic display at arm's length."""
SMALL_SHARE = 0.022
"""Cap height of titles and bar words, as a share of the short side."""
_MARGIN = 12
_MIN_ROOM = 300
"""Pixels between the margins: enough that the label of a narrow pane does not become a tower of words."""


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """Wording and layout."""

    text: str = "AI SYNTHETIC - NOT MEASURED - RESEARCH USE"
    soft: str = "soft (predicted)"
    hard: str = "hard (predicted)"
    emode_title: str = "AI SYNTHETIC E-mode"
    bmode_title: str = "B-mode (source)"
    layout: Layout = "side-by-side"
    font_file: Path | None = None
    """TrueType or OpenType file for wording that the built-in Latin font lacks."""
    min_height_share: float = 0.05
    """Height of the label's capitals as a share of the short side of the whole picture."""

    def check(self) -> None:
        """Raise ConfigInvalid if a character of the wording has no glyph, or the font cannot be read."""
        check_glyphs((self.text, self.soft, self.hard, self.emode_title, self.bmode_title), self.font_file)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A finished result picture."""

    pixels: Bytes
    """uint8 (H, W, 3)."""
    bmode_box: Box | None
    """Where the B-mode pane lies; None in the layout without it."""
    emode_box: Box
    scale: float
    """Picture pixels per source pixel."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where everything goes, for one height of the label."""

    label: Lettering
    small: Lettering
    lines: tuple[str, ...]
    titles: tuple[tuple[str, ...], ...]
    legend_rows: int
    footer: tuple[str, ...]
    width: int
    height: int
    pane_top: int
    pane_left: tuple[int, ...]


def compose(bmode: Bytes, emode: Bytes, table: Bytes, settings: LabelSettings, footer: str = "") -> Picture:
    """Put the panes, the label, the titles and the colour bar together.

    bmode   uint8 (H, W), what the network saw.
    emode   uint8 (H, W, 3), what it made of it.
    table   uint8 (256, 3), strain to colour; index 255 is soft.
    footer  a small last line, such as the bundle's name and version; no patient data.

    Every word lies outside the panes. Text wraps, and the picture grows, before anything is clipped.
    Raises ConfigInvalid if the wording cannot be drawn.
    """
    if bmode.shape != emode.shape[:2] or emode.shape[2:] != (3,) or table.shape != (256, 3):
        raise ValueError(f"shapes do not fit: B {bmode.shape}, E {emode.shape}, table {table.shape}")
    settings.check()
    check_glyphs((footer,), settings.font_file)
    factor = _factor(bmode.shape[0], bmode.shape[1])
    panes = [_enlarged(emode, factor)]
    titles = [settings.emode_title]
    if settings.layout == "side-by-side":
        grey = np.asarray(cv2.cvtColor(np.ascontiguousarray(bmode), cv2.COLOR_GRAY2RGB), dtype=np.uint8)
        panes.insert(0, _enlarged(grey, factor))
        titles.insert(0, settings.bmode_title)
    plan = _fitted_plan(panes[0].shape[0], panes[0].shape[1], tuple(titles), settings, footer)
    canvas = np.zeros((plan.height, plan.width, 3), np.uint8)
    boxes = _draw_panes(canvas, panes, plan)
    _draw_words(canvas, boxes, plan)
    _draw_legend(canvas, boxes[-1], table, settings, plan)
    return Picture(canvas, boxes[0] if len(boxes) > 1 else None, boxes[-1], float(factor))


def _factor(height: int, width: int) -> int:
    wanted = ceil(_LEGIBLE_SIDE / min(height, width))
    return max(1, min(wanted, _LARGEST_SIDE // max(height, width)))


def _enlarged(pane: Bytes, factor: int) -> Bytes:
    """Repeat pixels: an enlargement that invents no grey level."""
    if factor == 1:
        return pane
    size = (pane.shape[1] * factor, pane.shape[0] * factor)
    return np.asarray(cv2.resize(pane, size, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


@lru_cache(maxsize=64)  # images of a scanner have few sizes
def _fitted_plan(
    pane_height: int, pane_width: int, titles: tuple[str, ...], settings: LabelSettings, footer: str
) -> _Plan:
    """Raise the label until it keeps its share of the picture, which it makes larger itself."""
    short = min(pane_height, pane_width * len(titles))
    while True:
        cap = max(MIN_CAP, ceil(settings.min_height_share * short))
        plan = _plan(cap, pane_height, pane_width, titles, settings, footer, short)
        if plan.label.cap_px >= settings.min_height_share * min(plan.width, plan.height):
            return plan
        short = max(short + 1, min(plan.width, plan.height))


def _plan(
    cap: int,
    pane_height: int,
    pane_width: int,
    titles: tuple[str, ...],
    settings: LabelSettings,
    footer: str,
    short: int,
) -> _Plan:
    font = settings.font_file
    label = lettering(cap, font, settings.text)
    small = lettering(max(MIN_CAP, round(SMALL_SHARE * short)), font)
    room = max(
        pane_width * len(titles) + _MARGIN * (len(titles) - 1),
        label.widest_word(settings.text),
        small.width(settings.soft),
        small.width(settings.hard),
        small.widest_word(footer),
        _MIN_ROOM,
        len(titles) * max(small.widest_word(title) for title in titles),
    )
    width = room + 2 * _MARGIN
    lines = label.wrap(settings.text, room)
    slot = (room - _MARGIN * (len(titles) - 1)) // len(titles)
    wrapped = [tuple(small.wrap(title, slot)) for title in titles]
    title_rows = max(len(rows) for rows in wrapped)
    ends = small.width(settings.soft) + small.width(settings.hard) + 2 * _MARGIN
    legend_rows = 1 if ends <= slot else 2
    footer_lines = small.wrap(footer, room) if footer else []
    pane_top = _MARGIN + len(lines) * label.line_px + _MARGIN // 2 + title_rows * small.line_px + 4
    below = _MARGIN // 2 + small.cap_px + 4 + (legend_rows + len(footer_lines)) * small.line_px + _MARGIN
    left = tuple(_MARGIN + k * (slot + _MARGIN) + (slot - pane_width) // 2 for k in range(len(titles)))
    return _Plan(
        label=label,
        small=small,
        lines=tuple(lines),
        titles=tuple(wrapped),
        legend_rows=legend_rows,
        footer=tuple(footer_lines),
        width=width,
        height=pane_top + pane_height + below,
        pane_top=pane_top,
        pane_left=left,
    )


def _draw_panes(canvas: Bytes, panes: list[Bytes], plan: _Plan) -> list[Box]:
    boxes: list[Box] = []
    for pane, x0 in zip(panes, plan.pane_left, strict=True):
        x1, y1 = x0 + pane.shape[1], plan.pane_top + pane.shape[0]
        # A thin line around the pane, outside it: where dark tissue ends is then no guess.
        for edge in (plan.pane_top - 1, y1):
            canvas[edge, x0 - 1 : x1 + 1] = _LINE
        for edge in (x0 - 1, x1):
            canvas[plan.pane_top - 1 : y1 + 1, edge] = _LINE
        canvas[plan.pane_top : y1, x0:x1] = pane
        boxes.append((x0, plan.pane_top, x1, y1))
    return boxes


def _draw_words(canvas: Bytes, boxes: list[Box], plan: _Plan) -> None:
    y = _MARGIN
    for line in plan.lines:
        drawn = plan.label.draw(line, _AMBER)
        _paste(canvas, drawn, (plan.width - drawn.shape[1]) // 2, y)
        y += plan.label.line_px
    for k, (box, rows) in enumerate(zip(boxes, plan.titles, strict=True)):
        colour = _AMBER if k == len(boxes) - 1 else _LIGHT
        top = plan.pane_top - 4 - len(rows) * plan.small.line_px
        for row, line in enumerate(rows):
            drawn = plan.small.draw(line, colour)
            centred = (box[0] + box[2] - drawn.shape[1]) // 2
            _paste(canvas, drawn, centred, top + row * plan.small.line_px)
    y = plan.height - _MARGIN // 2 - len(plan.footer) * plan.small.line_px
    for line in plan.footer:
        _paste(canvas, plan.small.draw(line, _DIM), _MARGIN, y)
        y += plan.small.line_px


def _draw_legend(canvas: Bytes, box: Box, table: Bytes, settings: LabelSettings, plan: _Plan) -> None:
    """The bar from soft to hard under the E-mode pane. No numbers: nothing was measured."""
    x0, x1, top = box[0], box[2], box[3] + _MARGIN // 2
    columns = np.linspace(255, 0, x1 - x0).round().astype(int)
    canvas[top - 1 : top + plan.small.cap_px + 1, x0 - 1 : x1 + 1] = _LINE
    canvas[top : top + plan.small.cap_px, x0:x1] = table[columns]
    y = top + plan.small.cap_px + 4
    soft, hard = plan.small.draw(settings.soft, _LIGHT), plan.small.draw(settings.hard, _LIGHT)
    _paste(canvas, soft, x0, y)
    _paste(canvas, hard, x1 - hard.shape[1], y + (plan.legend_rows - 1) * plan.small.line_px)


def _paste(canvas: Bytes, drawn: Bytes, x: int, y: int) -> None:
    """Put words on the canvas; move them inwards rather than clip them."""
    height, width = drawn.shape[:2]
    x = max(0, min(x, canvas.shape[1] - width))
    y = max(0, min(y, canvas.shape[0] - height))
    canvas[y : y + height, x : x + width] = np.maximum(canvas[y : y + height, x : x + width], drawn)
