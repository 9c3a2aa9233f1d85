"""The contact sheet: the pictures stand where their captions say, and nothing is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.demo.sheet import SheetRow, contact_sheet

GREY = np.full((200, 300), 137, np.uint8)
GREEN = np.full((200, 300, 3), (20, 180, 60), np.uint8)
VIOLET = np.full((200, 300, 3), (150, 30, 190), np.uint8)
BAR = np.linspace((200, 0, 0), (0, 0, 200), 256).astype(np.uint8)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def _columns_of(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """First and last column that shows the colour."""
    found = np.flatnonzero((sheet == np.array(colour)).all(axis=-1).any(axis=0))
    return int(found[0]), int(found[-1])


def test_three_columns_stand_in_order(tmp_path: Path) -> None:
    row = SheetRow("1  cyst", GREY, GREEN, VIOLET, 0.71, "delivered")
    contact_sheet([row], tmp_path / "new" / "sheet.png", BAR, "Bundle 1: mean NCC 0.6.")
    sheet = _read(tmp_path / "new" / "sheet.png")
    bmode, emode, truth = (
        _columns_of(sheet, colour) for colour in ((137,) * 3, (20, 180, 60), (150, 30, 190))
    )
    assert bmode[1] < emode[0] < emode[1] < truth[0] < truth[1] < sheet.shape[1]
    # The warning: a dark red band over the whole width, with white letters on it.
    assert (sheet[2] == (126, 24, 28)).all()
    assert (sheet[:62] == 255).all(axis=-1).sum() > 500
    assert _columns_of(sheet, (200, 0, 0))[0] > bmode[1]


def test_truth_column_is_left_out_when_nobody_knows_the_truth(tmp_path: Path) -> None:
    known = SheetRow("a", GREY, GREEN, VIOLET, 0.5)
    unknown = SheetRow("b", GREY, GREEN)
    contact_sheet([known, unknown], tmp_path / "three.png")
    contact_sheet([unknown], tmp_path / "two.png")
    assert _read(tmp_path / "two.png").shape[1] < _read(tmp_path / "three.png").shape[1]


def test_image_without_a_result_is_small_and_last(tmp_path: Path) -> None:
    rows = [SheetRow("skipped", VIOLET, note="doppler: it has colour"), SheetRow("done", GREY, GREEN)]
    contact_sheet(rows, tmp_path / "sheet.png")
    sheet = _read(tmp_path / "sheet.png")
    violet = (sheet == (150, 30, 190)).all(axis=-1)
    green = (sheet == (20, 180, 60)).all(axis=-1)
    assert violet.sum() < green.sum() / 4
    assert np.flatnonzero(violet.any(axis=1))[0] > np.flatnonzero(green.any(axis=1))[-1]


@pytest.mark.parametrize("shape", [(64, 900), (900, 64), (1, 1), (480, 640, 3)])
def test_any_picture_fits(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = np.full(shape, 90, np.uint8)
    result = np.full((*shape[:2], 3), 90, np.uint8)
    contact_sheet([SheetRow("x" * 300, picture, result, note="y " * 300)], tmp_path / "sheet.png")
    sheet = _read(tmp_path / "sheet.png")
    assert (sheet == 90).all(axis=-1).any()


def test_rows_without_pictures_and_no_rows_at_all(tmp_path: Path) -> None:
    contact_sheet([SheetRow("broken.dcm", None, note="pixels-unreadable " * 40)], tmp_path / "one.png")
    contact_sheet([], tmp_path / "none.png")
    assert _read(tmp_path / "one.png").shape[0] > _read(tmp_path / "none.png").shape[0]
