"""The picture: the words are there, large enough, whole, and outside the tissue."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dicom_node.core.errors import ConfigInvalid
from dicom_node.dicom.label import LabelSettings, Picture, compose
from dicom_node.dicom.lettering import lettering
from dicom_objects import Frame, speckle

TABLE = np.stack([np.arange(256), np.full(256, 40), np.arange(255, -1, -1)], axis=-1).astype(np.uint8)
AMBER = (255, 191, 0)
SIZES = [(60, 80), (120, 256), (480, 640), (768, 1024), (600, 150), (900, 64), (64, 900)]


def picture(rows: int, columns: int, footer: str = "breast-sim 0.1.0", **settings: object) -> Picture:
    bmode = speckle(rows, columns)
    return compose(bmode, TABLE[bmode], TABLE, LabelSettings(**settings), footer)  # type: ignore[arg-type]


def label_lines(made: Picture) -> list[int]:
    """Ink heights of the amber lines above the titles: the label."""
    top = made.pixels[: made.emode_box[1]]
    amber = (np.abs(top.astype(int) - AMBER).sum(axis=-1) < 100).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], amber.astype(int), [0]])))
    return [int(b - a) for a, b in zip(edges[::2], edges[1::2], strict=True)][:-1]  # the last is the title


@pytest.mark.parametrize("layout", ["side-by-side", "emode"])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_label_capitals_are_a_twentieth_of_the_short_side(rows: int, columns: int, layout: str) -> None:
    made = picture(rows, columns, layout=layout)
    heights = label_lines(made)
    assert heights
    assert min(heights) >= 0.05 * min(made.pixels.shape[:2])


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_panes_hold_the_pixels_untouched(rows: int, columns: int) -> None:
    bmode = speckle(rows, columns)
    made = compose(bmode, TABLE[bmode], TABLE, LabelSettings())
    scale = int(made.scale)
    for box, expected in ((made.bmode_box, np.stack([bmode] * 3, axis=-1)), (made.emode_box, TABLE[bmode])):
        assert box is not None
        x0, y0, x1, y1 = box
        assert np.array_equal(made.pixels[y0:y1:scale, x0:x1:scale], expected)
        assert (y1 - y0, x1 - x0) == (rows * scale, columns * scale)


@pytest.mark.parametrize("layout", ["side-by-side", "emode"])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_nothing_touches_the_edge_of_the_picture(rows: int, columns: int, layout: str) -> None:
    pixels = picture(rows, columns, layout=layout).pixels
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert edge.max() == 0


def test_layout_without_b_mode() -> None:
    made = picture(480, 640, layout="emode")
    assert made.bmode_box is None
    assert made.pixels.shape[1] < 700


def test_bar_runs_from_soft_to_hard() -> None:
    made = picture(480, 640)
    x0, _, x1, y1 = made.emode_box
    row = made.pixels[y1 + 10]
    assert row[x0].tolist() == TABLE[255].tolist()
    assert row[x1 - 1].tolist() == TABLE[0].tolist()


def test_small_images_grow_by_a_whole_factor() -> None:
    assert picture(60, 80).scale == 5.0
    assert picture(480, 640).scale == 1.0


def test_long_wording_wraps_and_keeps_every_word() -> None:
    words = "EXPERIMENTAL SYNTHETIC PREDICTION - NOT A MEASUREMENT OF STIFFNESS - NOT FOR DIAGNOSIS"
    made = picture(200, 200, layout="emode", text=words)
    letters = lettering(round(0.05 * min(made.pixels.shape[:2])), None, words)
    lines = letters.wrap(words, made.pixels.shape[1] - 24)
    assert " ".join(lines).replace(" - ", " ").split() == words.replace(" - ", " ").split()
    assert len(label_lines(made)) >= len(lines)


def test_the_same_input_gives_the_same_bytes() -> None:
    assert picture(120, 160).pixels.tobytes() == picture(120, 160).pixels.tobytes()


def test_wording_without_glyphs_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigInvalid, match=r"built-in font has no glyph for '合'.*font_file"):
        picture(120, 160, text="合成")
    with pytest.raises(ConfigInvalid, match="font_file"):
        LabelSettings(soft="мягко合").check()


def test_font_file_is_used_and_a_broken_one_named(tmp_path: Path) -> None:
    fonts = sorted(Path(cv2.__file__).parent.rglob("*.ttf")) + sorted(
        Path("/usr/share/fonts").rglob("DejaVuSans.ttf")
    )
    if fonts:
        made = picture(120, 160, text="СИНТЕТИКА - НЕ ИЗМЕРЕНО", font_file=fonts[-1])
        assert min(label_lines(made)) >= 0.05 * min(made.pixels.shape[:2])
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    with pytest.raises(ConfigInvalid, match=r"broken\.ttf"):
        picture(120, 160, font_file=broken)


def test_shapes_that_do_not_fit_are_a_programming_error() -> None:
    frame: Frame = speckle(64, 64)
    with pytest.raises(ValueError, match="shapes"):
        compose(frame, TABLE[frame][:32], TABLE, LabelSettings())
