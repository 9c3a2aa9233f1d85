"""The contact sheet: every image of a demo beside what was made of it, on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

_PANE = (380, 260)
_SMALL = (150, 112)
_MARGIN, _GAP, _CAPTION = 28, 16, 46
_BANNER, _LINE = 62, 22
_PAPER, _INK, _QUIET = (248, 248, 246), (24, 26, 28), (98, 102, 108)
_WARNING_PAPER, _WARNING_INK = (126, 24, 28), (255, 255, 255)
_PANE_PAPER = (14, 15, 17)


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One image of the study and what became of it."""

    title: str
    bmode: NDArray[np.uint8] | None
    """uint8 (H, W) or (H, W, 3)."""
    emode_picture: NDArray[np.uint8] | None = None
    """uint8 (H, W, 3). None: no result was made, and `note` says why."""
    truth_colour: NDArray[np.uint8] | None = None
    """uint8 (H, W, 3), in the colours of `emode_picture`. Known of simulated images only."""
    ncc: float | None = None
    """Correlation of the synthetic map with the true strain."""
    note: str = ""


def contact_sheet(
    rows: Sequence[SheetRow],
    path: Path,
    colour_bar: NDArray[np.uint8] | None = None,
    summary: str = "",
) -> None:
    """Write the sheet as PNG: images with a result in full, the others small with their reason.

    colour_bar  uint8 (N, 3), from hard to soft: the colours of the maps. None leaves the legend out.
    summary     one sentence for the head of the sheet: the bundle, its scores.
    """
    done = [row for row in rows if row.emode_picture is not None]
    skipped = [row for row in rows if row.emode_picture is None]
    with_truth = any(row.truth_colour is not None for row in done)
    columns = 3 if with_truth else 2
    width = 2 * _MARGIN + columns * _PANE[0] + (columns - 1) * _GAP
    row_height = _CAPTION + _PANE[1] + _GAP
    skipped_height = (44 + len(skipped) * (_SMALL[1] + _GAP)) if skipped else 0
    titles_height = 74 if done else 0
    lines = _explanation(with_truth) + ([summary] if summary else [])
    header = _BANNER + 28 + _LINE * len(lines)
    height = header + titles_height + len(done) * row_height + skipped_height + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, width, lines)
    y = header
    if done:
        _draw_column_titles(sheet, draw, y, with_truth, colour_bar)
        y += titles_height
    for row in done:
        _draw_row(sheet, draw, y, row, with_truth)
        y += row_height
    if skipped:
        draw.line((_MARGIN, y, width - _MARGIN, y), fill=_QUIET)
        draw.text((_MARGIN, y + 10), "No result was made of these images", _INK, _font(18))
        y += 44
        for row in skipped:
            _draw_skipped(sheet, draw, y, row, width)
            y += _SMALL[1] + _GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def _explanation(with_truth: bool) -> list[str]:
    lines = ["The synthetic E-mode is a guess from the grey image alone: no compression was measured."]
    if with_truth:
        lines.append(
            "The true strain is simulated, as is the tissue. NCC compares the two maps:"
            " 1 is the same pattern, 0 is unrelated."
        )
    return lines


def _draw_header(draw: ImageDraw.ImageDraw, width: int, lines: Sequence[str]) -> None:
    draw.rectangle((0, 0, width, _BANNER), fill=_WARNING_PAPER)
    warning = "AI SYNTHETIC - NOT MEASURED - RESEARCH USE"
    size = 32
    while draw.textlength(warning, _font(size)) > width - 2 * _MARGIN:
        size -= 1
    draw.text((width // 2, _BANNER // 2), warning, _WARNING_INK, _font(size), anchor="mm")
    for number, line in enumerate(lines):
        text = _fit(draw, line, 15, width - 2 * _MARGIN)
        draw.text((_MARGIN, _BANNER + 14 + _LINE * number), text, _QUIET, _font(15))


def _draw_column_titles(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    y: int,
    with_truth: bool,
    colour_bar: NDArray[np.uint8] | None,
) -> None:
    names = ["B-mode", "Synthetic E-mode (AI)"] + (["True strain (simulated)"] if with_truth else [])
    for column, name in enumerate(names):
        draw.text((_left(column), y + 4), name, _INK, _font(20))
    draw.text((_left(0), y + 36), "what was sent", _QUIET, _font(15))
    if with_truth:
        draw.text((_left(2), y + 36), "of the same tissue, in the same colours", _QUIET, _font(15))
    if colour_bar is None:
        return
    left, top, length = _left(1), y + 38, _PANE[0] - 100
    bar = Image.fromarray(np.ascontiguousarray(colour_bar[None])).resize((length, 14))
    draw.text((left, top + 7), "hard", _INK, _font(15), anchor="lm")
    sheet.paste(bar, (left + 48, top))
    draw.text((left + 56 + length, top + 7), "soft", _INK, _font(15), anchor="lm")


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, y: int, row: SheetRow, with_truth: bool) -> None:
    draw.line((_MARGIN, y, sheet.width - _MARGIN, y), fill=(214, 214, 210))
    draw.text((_left(0), y + 13), _fit(draw, row.title, 20, _PANE[0]), _INK, _font(20))
    beside = "" if row.ncc is None else f"NCC {row.ncc:.2f}"
    draw.text((_left(1), y + 13), beside, _INK, _font(20))
    if row.note:
        start = _left(1) + (int(draw.textlength(beside, _font(20))) + 14 if beside else 0)
        room = sheet.width - _MARGIN - start
        draw.text((start, y + 17), _fit(draw, row.note, 15, room), _QUIET, _font(15))
    panes = [(row.bmode, ""), (row.emode_picture, "AI SYNTHETIC")]
    if with_truth:
        panes.append((row.truth_colour, "SIMULATED"))
    for column, (picture, tag) in enumerate(panes):
        _paste(sheet, draw, picture, (_left(column), y + _CAPTION, *_PANE), "not known")
        if tag and picture is not None:
            # On the picture itself: a row that is cut out of the sheet still says what it is.
            _draw_tag(draw, (_left(column), y + _CAPTION), tag)


def _draw_skipped(sheet: Image.Image, draw: ImageDraw.ImageDraw, y: int, row: SheetRow, width: int) -> None:
    _paste(sheet, draw, row.bmode, (_MARGIN, y, *_SMALL), "no picture")
    x = _MARGIN + _SMALL[0] + _GAP
    draw.text((x, y + 8), _fit(draw, row.title, 18, width - _MARGIN - x), _INK, _font(18))
    for number, line in enumerate(_wrap(draw, row.note or "no reason given", 15, width - _MARGIN - x)[:3]):
        draw.text((x, y + 38 + _LINE * number), line, _QUIET, _font(15))


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: NDArray[np.uint8] | None,
    box: tuple[int, int, int, int],
    otherwise: str,
) -> None:
    """Put a picture into (x, y, width, height), all of it, its proportions kept."""
    x, y, width, height = box
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_PANE_PAPER)
    if picture is None:
        draw.text((x + width // 2, y + height // 2), otherwise, _QUIET, _font(15), anchor="mm")
        return
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    scale = min(width / image.width, height / image.height)
    shown = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    sheet.paste(shown, (x + (width - shown.width) // 2, y + (height - shown.height) // 2))


def _draw_tag(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str) -> None:
    x, y = corner
    draw.rectangle((x, y, x + int(draw.textlength(text, _font(14))) + 14, y + 22), fill=_PANE_PAPER)
    draw.text((x + 7, y + 11), text, _WARNING_INK, _font(14), anchor="lm")


def _left(column: int) -> int:
    return _MARGIN + column * (_PANE[0] + _GAP)


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int, room: int) -> str:
    """The text, cut with an ellipsis if it is wider than the room."""
    if draw.textlength(text, _font(size)) <= room:
        return text
    while text and draw.textlength(text + "…", _font(size)) > room:
        text = text[:-1]
    return text + "…"


def _wrap(draw: ImageDraw.ImageDraw, text: str, size: int, room: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, _font(size)) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_fit(draw, line, size, room) for line in lines]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow's own font: the picture must not depend on what a machine has installed.
    return ImageFont.load_default(size)
