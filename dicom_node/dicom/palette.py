"""Palette colour: from indices to RGB (PS3.3 C.7.6.3.1.5 and .6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut

from dicom_node.dicom.header import element_value, texts


def through_palette(stored: NDArray[np.generic], ds: Dataset, *, little_endian: bool) -> NDArray[np.uint8]:
    """Apply the palette of `ds` to indices (H, W); uint8 (H, W, 3).

    Not by pydicom 3.0.2, which reads the entries of a big-endian file in the wrong byte order.
    May raise anything if the palette is broken: the caller's boundary says so in one sentence.
    """
    descriptor = texts(ds, "RedPaletteColorLookupTableDescriptor")
    entries, first, bits = (int(part) for part in descriptor)
    entries = entries or 1 << 16
    tables = []
    for colour in ("Red", "Green", "Blue"):
        data = element_value(ds, f"{colour}PaletteColorLookupTableData")
        if not isinstance(data, bytes):
            return _through_segmented_palette(stored, ds, bits)
        tables.append(_entries_of(data, entries, bits, little_endian=little_endian))
    lut = np.stack(tables, axis=-1)
    return lut[np.clip(stored.astype(np.int64) - first, 0, len(lut) - 1)]


def _entries_of(data: bytes, entries: int, bits: int, *, little_endian: bool) -> NDArray[np.uint8]:
    if len(data) >= 2 * entries:
        wide = np.frombuffer(data[: 2 * entries], dtype="<u2" if little_endian else ">u2")
        # Some writers keep 8-bit entries in the low byte of 16-bit words, against what the descriptor says.
        return (wide if bits == 8 or wide.max() < 256 else wide >> 8).astype(np.uint8)
    narrow = np.frombuffer(data, dtype=np.uint8)
    # Two 8-bit entries share a 16-bit word, the first in its low byte: big-endian files have them swapped.
    return narrow if little_endian else narrow.reshape(-1, 2)[:, ::-1].reshape(-1)


def _through_segmented_palette(stored: NDArray[np.generic], ds: Dataset, bits: int) -> NDArray[np.uint8]:
    rgb = apply_color_lut(stored, ds)[..., :3]
    return (rgb >> 8 if bits > 8 else rgb).astype(np.uint8)
