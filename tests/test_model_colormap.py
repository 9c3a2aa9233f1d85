"""Strain to colour and back."""

import colorsys

import numpy as np
import pytest

from dicom_objects import speckle
from model.colormap import chroma_of, colormap_of, get_colormap, invert, match, overlay, render
from model.errors import ColorMapInvalid, ColorMapUnknown
from screens_drawn import strain_field, through_jpeg
from training.screens.tables import named_table

RAINBOW = get_colormap("emode-rainbow", 1)


def test_table_is_pinned():
    # A published table never changes: results of years ago must stay readable.
    assert RAINBOW.sha256 == "3ccedddc80e5c02cae9b0bd7932fbadd3d94ebf77d7da56ee46b30e0c2ffa74a"
    assert not RAINBOW.table.flags.writeable


def test_ends_and_middle():
    assert RAINBOW.table[0].tolist() == [0, 0, 255]  # hard: blue
    assert RAINBOW.table[255].tolist() == [255, 0, 0]  # soft: red
    assert colorsys.rgb_to_hsv(*(RAINBOW.table[127] / 255))[0] == pytest.approx(
        1 / 3, abs=0.01
    )  # mean: green


def test_monotone_and_injective():
    hue = np.array([colorsys.rgb_to_hsv(*(rgb / 255))[0] for rgb in RAINBOW.table])
    assert np.all(np.diff(hue) < 0)
    assert len({tuple(rgb) for rgb in RAINBOW.table.tolist()}) == 256
    chroma = RAINBOW.table - RAINBOW.table.mean(axis=1, keepdims=True)
    apart = np.linalg.norm(chroma[:, None] - chroma[None], axis=-1) + np.eye(256) * 99
    assert apart.min() > 2.0  # levels of 255: no two entries are alike once B-mode is taken out


def test_unknown_map_lists_known():
    with pytest.raises(ColorMapUnknown, match="emode-rainbow 1"):
        get_colormap("jet", 1)


def test_render_takes_nearest_entry_and_clips():
    strain = np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]], np.float32)
    assert render(strain, RAINBOW)[0].tolist() == RAINBOW.table[[0, 0, 128, 255, 255]].tolist()


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_overlay_is_undone_whatever_lies_beneath(alpha):
    rng = np.random.default_rng(1)
    strain = rng.random((90, 120)).astype(np.float32)
    bmode = rng.integers(0, 256, (90, 120), dtype=np.uint8)
    recovered = invert(overlay(strain, bmode, RAINBOW, alpha), RAINBOW, alpha)
    assert np.abs(recovered - strain).mean() < 0.003
    assert np.abs(recovered - strain).max() < 0.02


def test_overlay_adds_residual():
    strain, bmode = np.zeros((2, 2), np.float32), np.full((2, 2), 100, np.uint8)
    residual = [np.full((2, 2), 0.1, np.float32)] * 3
    plain, changed = (overlay(strain, bmode, RAINBOW, 0.5, r).astype(int) for r in (None, residual))
    assert np.abs(changed - plain - 25.5).max() <= 1


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_inversion_by_table_is_the_nearest_entry(alpha):
    rgb = np.random.default_rng(4).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    found, wanted = invert(rgb, RAINBOW, alpha), match(chroma_of(rgb), RAINBOW, alpha)[0]
    chroma = chroma_of(rgb) / alpha
    entries = [chroma_of(RAINBOW.table)[np.rint(255 * strain).astype(int)] for strain in (found, wanted)]
    # Two entries may be equally near, and which is taken is rounding.
    near, nearest = (np.linalg.norm(chroma - entry, axis=-1) for entry in entries)
    assert np.allclose(near, nearest, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.2, -0.1])
def test_inversion_needs_colour(alpha):
    with pytest.raises(ValueError, match="alpha"):
        invert(np.zeros((2, 2, 3), np.uint8), RAINBOW, alpha)


@pytest.mark.parametrize(
    ("alpha", "jpeg", "low", "high"),
    # Mean errors measured with throw-away code before this was written: .0010, .0010, .0011, .0043. The first
    # three are the rounding of 256 entries; JPEG's depends on the picture.
    [
        (1.0, None, 0.0008, 0.0012),
        (0.6, None, 0.0008, 0.0012),
        (0.4, None, 0.0008, 0.0013),
        (0.4, 75, 0.003, 0.006),
    ],
)
def test_golden_errors_of_inversion(alpha, jpeg, low, high):
    jet = colormap_of("jet", named_table("jet"))
    strain, bmode = strain_field(256, 256, 3), speckle(256, 256)
    drawn = overlay(strain, bmode, jet, alpha)
    recovered = invert(drawn if jpeg is None else through_jpeg(drawn, jpeg), jet, alpha)
    assert low <= np.abs(recovered - strain).mean() <= high


def test_any_table_is_a_colour_map():
    table = named_table("jet").copy()
    jet = colormap_of("site", table)
    table[:] = 0
    assert jet.table.any()
    assert not jet.table.flags.writeable
    assert jet.sha256 != RAINBOW.sha256
    strain = np.linspace(0, 1, 256, dtype=np.float32)[None]
    assert np.abs(invert(render(strain, jet), jet) - strain).max() < 1e-6


@pytest.mark.parametrize("table", [np.zeros((255, 3), np.uint8), np.zeros((256, 3), np.float32)])
def test_other_shapes_are_no_colour_map(table):
    with pytest.raises(ColorMapInvalid, match="256"):
        colormap_of("site", table)


def test_distance_tells_what_is_not_of_the_table():
    jet = colormap_of("jet", named_table("jet"))
    blended = overlay(np.full((4, 4), 0.3, np.float32), np.full((4, 4), 200, np.uint8), jet, 0.4)
    blended[0, 0] = 255  # white text
    blended[1, 1] = (255, 255, 0)  # a marker, too vivid for a blend
    strain, distance = match(chroma_of(blended), jet, 0.4)
    assert distance[0, 0] > 90
    assert distance[1, 1] > 90
    assert distance[2:, 2:].max() < 3
    assert strain[2, 2] == pytest.approx(0.3, abs=0.004)
