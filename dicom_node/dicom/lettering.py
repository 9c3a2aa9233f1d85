"""Words as pixels: a font that is there, sizes by measured height, lines that fit."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicom_node.core.errors import ConfigInvalid

Colour = tuple[int, int, int]

# Assigned to no character, so every font draws its "missing" box for it.
_MISSING = "\U0010ffff"
_FIRST_IDEOGRAPH = "\u2e80"


@dataclass(frozen=True, slots=True)
class Lettering:
    """One font at one size."""

    font: ImageFont.FreeTypeFont
    cap_px: int
    """Height of a capital (or ideograph), measured in drawn pixels."""

    @property
    def line_px(self) -> int:
        """From one line to the next."""
        ascent, descent = self.font.getmetrics()
        return ascent + descent

    def width(self, line: str) -> int:
        """Pixels that a line takes, its overhang included."""
        left, _, right, _ = self.font.getbbox(line)
        return int(np.ceil(right - min(0, left)))

    def wrap(self, text: str, width: int) -> list[str]:
        """Break into lines of at most `width` pixels, at " - " first, then between words or ideographs.

        A single word wider than that stays whole: the caller has to make room (`widest_word`).
        """
        lines: list[str] = []
        for phrase in text.split(" - "):
            joined = f"{lines[-1]} - {phrase}" if lines else phrase
            if lines and self.width(joined) <= width:
                lines[-1] = joined
            else:
                lines.extend(self._wrap_phrase(phrase, width))
        return lines

    def widest_word(self, text: str) -> int:
        """Pixels of the widest piece that cannot be broken."""
        return max((self.width(piece.strip()) for piece in _pieces(text)), default=0)

    def draw(self, line: str, colour: Colour) -> NDArray[np.uint8]:
        """The line on black, uint8 (line_px, width, 3), read-only."""
        return _drawn_line(self, line, colour)

    def _wrap_phrase(self, phrase: str, width: int) -> list[str]:
        lines = [""]
        for piece in _pieces(phrase):
            if self.width((lines[-1] + piece).strip()) <= width or not lines[-1].strip():
                lines[-1] += piece
            else:
                lines.append(piece)
        return [line.strip() for line in lines]


def lettering(cap_px: int, font_file: Path | None = None, sample: str = "") -> Lettering:
    """The smallest size whose capitals are really at least `cap_px` pixels high.

    sample  the words to be drawn: where they have no Latin capital, their own tallest character counts.
    Raises ConfigInvalid if the font file cannot be used.
    """
    tall = "H" if not sample or any("A" <= c <= "Z" for c in sample) else "".join(sorted(set(sample)))
    size = cap_px
    while (measured := _ink_height(size, font_file, tall)) < cap_px:
        size += max(1, (cap_px - measured) // 2)
    return Lettering(_font(size, font_file), measured)


@lru_cache(maxsize=64)
def check_glyphs(texts: tuple[str, ...], font_file: Path | None = None) -> None:
    """Raise ConfigInvalid if the font has no picture for a character of these texts."""
    font = _font(32, font_file)
    nothing = _drawn(font, _MISSING)
    missing = sorted({c for text in texts for c in text if not c.isspace() and _drawn(font, c) == nothing})
    if missing:
        name = font_file.name if font_file else "the built-in font"
        wanted = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in missing[:5])
        raise ConfigInvalid(
            "label", (f"{name} has no glyph for {wanted}; set font_file to a font of this language",)
        )


@lru_cache(maxsize=256)  # the same words on every result
def _drawn_line(lettering: Lettering, line: str, colour: Colour) -> NDArray[np.uint8]:
    picture = Image.new("RGB", (max(1, lettering.width(line)), lettering.line_px))
    left = lettering.font.getbbox(line)[0]
    ImageDraw.Draw(picture).text((-min(0, left), 0), line, font=lettering.font, fill=colour)
    drawn = np.asarray(picture)
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=64)
def _font(size: int, font_file: Path | None) -> ImageFont.FreeTypeFont:
    # The basic layout engine: the other one is a system library, present on some machines only.
    if font_file is not None:
        try:
            # From memory, so that no file stays open for the life of the process.
            return ImageFont.truetype(
                io.BytesIO(font_file.read_bytes()), size, layout_engine=ImageFont.Layout.BASIC
            )
        except OSError as error:
            raise ConfigInvalid("label", (f"font_file {font_file.name} cannot be read: {error}",)) from None
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ConfigInvalid("label", ("this Pillow is built without FreeType; install its usual wheel",))
    return font


@lru_cache(maxsize=256)
def _ink_height(size: int, font_file: Path | None, characters: str) -> int:
    font = _font(size, font_file)
    return max(_ink_rows(font, character) for character in characters)


def _ink_rows(font: ImageFont.FreeTypeFont, character: str) -> int:
    picture = Image.new("L", (4 * int(font.size) + 8, 4 * int(font.size) + 8))
    ImageDraw.Draw(picture).text((font.size, font.size), character, font=font, fill=255)
    # Half lit counts: the soft edge of a stroke is not height that an eye reads.
    return int((np.asarray(picture) >= 128).any(axis=1).sum())


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    mask = font.getmask(character, mode="L")
    return f"{mask.size}".encode("ascii") + bytes(mask)


def _pieces(text: str) -> list[str]:
    """Cut where a line may break: after spaces, and around ideographs."""
    pieces = [""]
    for character in text:
        if character >= _FIRST_IDEOGRAPH:
            pieces += [character, ""]
            continue
        pieces[-1] += character
        if character == " ":
            pieces.append("")
    return [piece for piece in pieces if piece]
