"""Colour tables of scanners by name, and which end of a table is the soft one."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model.colormap import ColorMap, colormap_of, get_colormap
from training.errors import SettingsInvalid

Table = NDArray[np.uint8]

Polarity = Literal["soft-high", "hard-high"]
"""What the high end of the colour bar means: its top or right end, the last entry of a named table.

Scanners differ, and most can be set either way: Hitachi shows soft tissue red, SuperSonic stiff tissue. No
picture tells without reading its words, so a site says it.
"""
POLARITIES: tuple[Polarity, ...] = get_args(Polarity)

FROM_BAR = "bar"
"""The name that stands for no table: the colour bar of each screen."""


def _jet() -> Table:
    """The published ramps of jet: three trapezia of width 1/2, from dark blue to dark red."""
    t = np.linspace(0.0, 1.0, 256)
    ramps = [np.clip(1.5 - np.abs(4.0 * t - centre), 0.0, 1.0) for centre in (3.0, 2.0, 1.0)]
    return np.round(np.stack(ramps, axis=-1) * 255).astype(np.uint8)


_TABLES: dict[str, Table] = {
    "jet": _jet(),
    "emode-rainbow": get_colormap("emode-rainbow", 1).table,
}
LUTS = (FROM_BAR, *(name + end for name in sorted(_TABLES) for end in ("", "-reversed")))


def named_table(name: str) -> Table:
    """Return a table by its name, low end first: uint8 (256, 3); SettingsInvalid lists those there are."""
    base = name.removesuffix("-reversed")
    if base not in _TABLES:
        raise SettingsInvalid(f'lut "{name}" is not one of {", ".join(LUTS)}')
    return _TABLES[base][::-1] if name != base else _TABLES[base]


def hard_first(name: str, table: Table, polarity: Polarity) -> ColorMap:
    """Make the colour map of a table uint8 (256, 3), given low end first."""
    return colormap_of(name, table if polarity == "soft-high" else table[::-1])
