"""One screen -> one pair: round trips over drawn screens, and real ones."""

from itertools import product

import cv2
import numpy as np
import pytest

from dicom_node.dicom.pixels import luma
from model.colormap import get_colormap, overlay
from screens_drawn import Look, draw
from training.errors import SettingsInvalid
from training.screens.bar import Bar, find_bar
from training.screens.dual import Reading, read_dual_view
from training.screens.panes import Panes, find_panes
from training.screens.quality import Quality
from training.screens.reasons import Reason, Rejection
from training.screens.register import find_shift
from training.screens.tables import LUTS, hard_first, named_table

JET = named_table("jet")


def reading(look: Look, **changes: object) -> Reading:
    return Reading(polarity="soft-high" if look.soft_high else "hard-high", **changes)


def errors(look: Look, **changes: object) -> tuple[float, float, object]:
    """NCC and mean error of the strain recovered, where it was drawn, and what was found."""
    drawn = draw(look)
    if look.alpha == 1.0 and look.roi is None:  # no speckle is left to find the panes by
        changes["panes"] = (drawn.coloured, drawn.clean)
    found = read_dual_view(drawn.rgb, reading(look, **changes))
    assert found.rejection is None, found.rejection
    x0, y0, x1, y1 = found.roi
    dx, dy = found.panes.clean[0] - drawn.clean[0], found.panes.clean[1] - drawn.clean[1]
    truth = drawn.strain[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    assert truth.shape == found.strain.shape
    ncc = float(np.corrcoef(found.strain.ravel(), truth.ravel())[0, 1])
    return ncc, float(np.abs(found.strain - truth).mean()), found


def quantised(table: np.ndarray, levels: int) -> np.ndarray:
    index = np.arange(256) * levels // 256 * 256 // levels + 128 // levels
    return table[index]


def hues(hue: np.ndarray, value: int = 255) -> np.ndarray:
    """A table of hues, in OpenCV's steps of two degrees."""
    hsv = np.stack([hue, np.full(256, 255), np.full(256, value)], -1).astype(np.uint8)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]


TABLES = {
    "jet": JET,
    "emode-rainbow": named_table("emode-rainbow"),
    "violet to red": hues(np.linspace(140, 0, 256), 200),
    "jet in 64 steps": quantised(JET, 64),
}
LAYOUTS = [
    {"swapped": False, "bar": "right"},
    {"swapped": True, "bar": "left", "gap": 40},
    {"stacked": True, "margins": (35, 30)},
    {"margins": (110, 64), "gap": 0, "roi": None},
]
CASES = [
    (name, alpha, jpeg, soft_high, layout)
    for i, (name, alpha, jpeg) in enumerate(product(TABLES, (0.3, 0.6, 1.0), (None, 75)))
    for soft_high, layout in [(i % 2 == i // 6 % 2, LAYOUTS[(i + i // 4) % 4])]
]


@pytest.mark.parametrize(("name", "alpha", "jpeg", "soft_high", "layout"), CASES)
def test_round_trip(name, alpha, jpeg, soft_high, layout):
    look = Look(TABLES[name], soft_high=soft_high, alpha=alpha, jpeg=jpeg, **layout)
    ncc, mean_error, found = errors(look)
    # A bar has fewer rows than a map has entries, and marks are filled in; JPEG halves chroma's size, and
    # what is lost there is three times as loud at alpha .3.
    assert ncc >= (0.999 if jpeg is None else 0.995)
    assert mean_error <= (0.005 if jpeg is None else 0.013)
    assert found.blend.alpha == pytest.approx(alpha, abs=0.03)
    assert found.quality.score > 0.8


def test_named_table_needs_no_bar():
    look = Look(JET, bar="none", alpha=0.5)
    assert errors(look, lut="jet")[0] > 0.999
    assert errors(Look(JET[::-1], bar="none", alpha=0.5), lut="jet-reversed")[0] > 0.999


def test_polarity_turns_strain_round():
    drawn = draw(Look(JET))
    soft, hard = (read_dual_view(drawn.rgb, Reading(p)).strain for p in ("soft-high", "hard-high"))
    # Of all pixels but those filled in.
    assert np.median(np.abs(soft + hard - 1)) < 0.005


def test_strain_lies_on_the_plain_panes_pixels_after_a_shift():
    # One pixel of the shift goes into the place of the panes, the rest is measured.
    drawn = draw(Look(JET, alpha=0.5, shift=(0.6, -0.4), marks=False))
    found = read_dual_view(drawn.rgb, Reading("soft-high"))
    apart = [c - p for c, p in zip(found.panes.coloured, found.panes.clean, strict=True)][:2]
    meant = [c - p for c, p in zip(drawn.coloured, drawn.clean, strict=True)][:2]
    total = [a - m + s for a, m, s in zip(apart, meant, found.shift, strict=True)]
    assert total == pytest.approx([0.6, -0.4], abs=0.06)
    ncc, mean_error, _ = errors(Look(JET, alpha=0.5, shift=(0.6, -0.4), marks=False))
    assert ncc > 0.9995
    assert mean_error < 0.004


def test_shift_is_not_invented_where_nothing_shows_through():
    rng = np.random.default_rng(5)
    one, other = (rng.integers(0, 255, (120, 130), dtype=np.uint8) for _ in range(2))
    assert find_shift(one, other) == (0.0, 0.0)


def test_tinted_bmode_does_not_tint_strain():
    tint = (0.88, 0.95, 1.0)
    assert errors(Look(JET, alpha=0.3, tint=tint))[1] < 0.004


def test_marks_are_masked_and_filled_and_leave_bmode():
    drawn = draw(Look(JET, alpha=0.5))
    found = read_dual_view(drawn.rgb, Reading("soft-high"))
    x0, y0, x1, y1 = found.roi
    dx, dy = found.panes.clean[0] - drawn.clean[0], found.panes.clean[1] - drawn.clean[1]
    plain = drawn.rgb[drawn.clean[1] : drawn.clean[3], drawn.clean[0] : drawn.clean[2]]
    marks = (luma(plain) == 255)[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    assert marks.sum() > 50
    assert found.masked[marks].mean() > 0.98
    assert found.masked.mean() < 0.06
    assert (found.bmode[marks] > 240).mean() < 0.02
    truth = drawn.strain[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    assert np.abs(found.strain - truth)[marks].mean() < 0.02


def test_panes_and_region_are_where_they_were_drawn():
    for layout in LAYOUTS[:3]:
        drawn = draw(Look(JET, alpha=0.6, jpeg=75, **layout))
        found = read_dual_view(drawn.rgb, Reading("soft-high"))
        # The region is inset by three pixels, and drawn in past the frame around it.
        region = [v + found.panes.coloured[i % 2] - drawn.coloured[i % 2] for i, v in enumerate(found.roi)]
        inside = [a - b for a, b in zip(region, drawn.roi, strict=True)]
        assert all(0 <= v <= 9 for v in (inside[0], inside[1], -inside[2], -inside[3]))
        assert np.abs(np.subtract(found.bar.box, drawn.bar)).max() <= 2


def test_bar_is_read_to_a_level():
    drawn = draw(Look(JET))
    bar = find_bar(drawn.rgb, (drawn.clean, drawn.coloured))
    assert np.abs(bar.table.astype(int) - JET).mean(axis=1).max() < 3


def test_horizontal_bar_has_its_high_end_right():
    drawn = draw(Look(JET, bar="none"))
    rgb = drawn.rgb.copy()
    rgb[-45:-33, 100:300] = JET[np.linspace(0, 255, 200).round().astype(int)][None]
    bar = find_bar(rgb, (drawn.clean, drawn.coloured))
    assert isinstance(bar, Bar)
    assert bar.box == pytest.approx((100, rgb.shape[0] - 45, 300, rgb.shape[0] - 33), abs=1)
    assert np.abs(bar.table.astype(int) - JET).mean(axis=1).max() < 3


def doppler_table() -> np.ndarray:
    """Red over black to blue, as colour flow shows."""
    t = np.linspace(-1, 1, 256)[:, None]
    hot = np.hstack([np.clip(2 * t, 0, 1), np.clip(2 * t - 1, 0, 1), 0 * t])
    cold = np.hstack([0 * t, np.clip(-2 * t - 1, 0, 1), np.clip(-2 * t, 0, 1)])
    return np.round((hot + cold) * 255).astype(np.uint8)


def doppler_screen() -> np.ndarray:
    drawn = draw(Look(doppler_table(), alpha=1.0, marks=False))
    rgb = drawn.rgb.copy()
    x0, y0, x1, y1 = drawn.coloured
    grey = np.repeat(drawn.bmode[..., None], 3, axis=2)
    y, x = np.mgrid[: y1 - y0, : x1 - x0]
    for cx, cy, colour in ((80, 110, (220, 60, 0)), (150, 130, (0, 60, 230))):
        near = np.hypot((x - cx) / 28, (y - cy) / 14) < 1
        shade = (0.5 + 0.5 * np.exp(-(((y - cy) / 10.0) ** 2)))[near, None]
        grey[near] = np.round(shade * colour).astype(np.uint8)
    rgb[y0:y1, x0:x1] = grey
    return rgb


def turbo() -> np.ndarray:
    """Its low end is a violet so dark that it is nearly grey."""
    return cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(256, 1), cv2.COLORMAP_TURBO)[
        :, 0, ::-1
    ].copy()


def grey_screen() -> np.ndarray:
    return np.repeat(luma(draw(Look(JET)).rgb)[..., None], 3, axis=2)


def one_pane() -> np.ndarray:
    drawn = draw(Look(JET))
    rgb = drawn.rgb.copy()
    x0, y0, x1, y1 = drawn.clean
    rgb[y0:y1, x0:x1] = 8
    return rgb


def other_tissue() -> np.ndarray:
    drawn, other = draw(Look(JET)), draw(Look(JET, seed=9))
    rgb = drawn.rgb.copy()
    x0, y0, x1, y1 = drawn.clean
    rgb[y0:y1, x0:x1] = other.rgb[y0:y1, x0:x1]
    return rgb


def saturated() -> np.ndarray:
    table = JET.copy()
    table[:110], table[150:] = JET[0], JET[-1]
    drawn = draw(Look(table, bar="none"))
    rgb = drawn.rgb.copy()
    rgb[50:230, -40:-28] = JET[np.linspace(255, 0, 180).round().astype(int)][:, None]
    return rgb


@pytest.mark.parametrize(
    ("rgb", "reasons", "changes"),
    [
        (lambda: draw(Look(JET, bar="none")).rgb, {Reason.NO_BAR}, {}),
        (one_pane, {Reason.NO_PANES, Reason.TWO_OVERLAYS}, {}),
        (doppler_screen, {Reason.FLOW}, {}),
        (doppler_screen, {Reason.FLOW, Reason.TOO_MUCH_MASKED, Reason.TOO_SMALL}, {"lut": "jet"}),
        (lambda: draw(Look(hues(np.arange(256) * 179 / 255))).rgb, {Reason.BAR_NOT_INVERTIBLE}, {}),
        (lambda: draw(Look(turbo())).rgb, {Reason.BAR_NOT_INVERTIBLE}, {}),
        (lambda: draw(Look(JET, blend="value")).rgb, {Reason.BLEND_NOT_LINEAR, Reason.TOO_MUCH_MASKED}, {}),
        (grey_screen, {Reason.NO_OVERLAY}, {}),
        (other_tissue, {Reason.NO_PANES, Reason.MISALIGNED}, {}),
        (saturated, {Reason.SATURATED}, {}),
        (lambda: draw(Look(JET, roi=(60, 60, 110, 110), marks=False)).rgb, {Reason.TOO_SMALL}, {}),
        (lambda: draw(Look(JET, bar="none")).rgb, {Reason.TOO_MUCH_MASKED, Reason.BLEND_NOT_LINEAR},
         {"lut": "emode-rainbow"}),
    ],
)  # fmt: skip
def test_bad_screens_are_rejected_with_a_reason(rgb, reasons, changes):
    found = read_dual_view(rgb(), Reading("soft-high", **changes))
    assert found.rejection is not None
    assert found.rejection.reason in reasons, found.rejection


def test_every_reason_has_a_sentence():
    assert all(reason.sentence.endswith((".", "yaml.")) for reason in Reason)


def test_quality_is_that_of_the_worst_measure():
    good = Quality(0.0, 0.0, 0.0, 0.0, 0.0, None, 0.0)
    assert good.score == 1.0
    assert good.judge() is None
    bad = Quality(0.0, 0.0, 0.0, 40.0, 0.0, 0.9, 0.0)
    assert bad.judge() == Rejection(Reason.BLEND_NOT_LINEAR, "residual is 40, which scores 0.00")


def test_stated_panes_are_taken():
    drawn = draw(Look(JET, alpha=1.0, roi=None, marks=False))
    panes = find_panes(drawn.rgb, given=(drawn.coloured, drawn.clean))
    assert panes == Panes(drawn.clean, drawn.coloured, "settings")


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 64), (63, 400), (140, 70), (128, 256)])
@pytest.mark.parametrize("content", ["black", "noise", "grey noise", "red"])
def test_no_picture_is_too_odd(shape, content):
    rng = np.random.default_rng(1)
    rgb = {
        "black": np.zeros((*shape, 3), np.uint8),
        "noise": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "grey noise": np.repeat(rng.integers(0, 256, (*shape, 1), dtype=np.uint8), 3, axis=2),
        "red": np.full((*shape, 3), (255, 0, 0), np.uint8),
    }[content]
    stated = (((0, 0, 5000, 90), (60, 0, 130, 70)), ((0, 0, 64, 64), (64, 0, 128, 64)))
    for changes in ({}, {"lut": "jet"}, *({"panes": panes} for panes in stated)):
        assert read_dual_view(rgb, Reading("soft-high", **changes)).rejection is not None


def test_regions_of_unequal_size_are_brought_to_one():
    drawn = draw(Look(JET))
    x0, y0, x1, y1 = drawn.coloured
    panes = find_panes(drawn.rgb, (drawn.clean, (x0, y0, x1 - 4, y1 - 3)))
    assert panes.found_by == "regions"
    assert panes.coloured == (x0, y0, x1 - 4, y1 - 3)
    assert panes.clean[2:] == (drawn.clean[2] - 4, drawn.clean[3] - 3)


def test_tables_are_known_by_name():
    assert JET[[0, 255]].tolist() == [[0, 0, 128], [128, 0, 0]]  # MATLAB's: dark blue to dark red
    assert set(LUTS) == {"bar", "jet", "jet-reversed", "emode-rainbow", "emode-rainbow-reversed"}
    assert np.array_equal(hard_first("jet", JET, "hard-high").table, JET[::-1])
    with pytest.raises(SettingsInvalid, match="jet-reversed"):
        named_table("parula")


def test_inversion_is_that_of_the_nodes_own_overlays():
    # What the node draws can be read back: its overlay beside its B-mode, as in docs/images.
    drawn = draw(Look(JET))
    rainbow = get_colormap("emode-rainbow", 1)
    over = overlay(drawn.strain, drawn.bmode, rainbow, 0.5)
    rgb = np.concatenate([np.repeat(drawn.bmode[..., None], 3, 2), over], axis=1)
    found = read_dual_view(rgb, Reading("soft-high", lut="emode-rainbow"))
    x0, y0, x1, y1 = found.roi
    assert np.abs(found.strain - drawn.strain[y0:y1, x0:x1]).mean() < 0.003


@pytest.mark.real_data
def test_arm_pairs_invert_to_the_strain_beside_them(real_data, record_property):
    """The figure of the card: NCC of the inversion over valid pixels; run with -s to see it."""
    nccs = []
    for file in sorted((real_data / "strain" / "arm-pairs").glob("*_dual.png")):
        grey = [cv2.imread(str(file.with_name(file.name.replace("dual", n))), 0) for n in ("strain", "valid")]
        rgb = cv2.imread(str(file))[..., ::-1].copy()
        # Its jet runs from soft blue to hard red, as on shear-wave screens.
        found = read_dual_view(rgb, Reading("hard-high", lut="jet", threshold=0.4))
        assert found.rejection is None
        assert found.blend.alpha == pytest.approx(0.5, abs=0.005)
        x0, y0, x1, y1 = found.roi
        strain, valid = (g[y0:y1, x0:x1] for g in grey)
        ncc = float(np.corrcoef(found.strain[valid > 0], strain[valid > 0])[0, 1])
        print(f"{file.name}: NCC {ncc:.4f} on {np.mean(valid > 0):.0%} valid pixels")  # noqa: T201 - a figure
        nccs.append(ncc)
    print(f"lowest NCC of the inversion on arm-pairs: {min(nccs):.4f}")  # noqa: T201
    assert len(nccs) == 6
    assert min(nccs) >= 0.98


@pytest.mark.real_data
def test_real_screens_have_their_panes_and_bars_found(real_data):
    folder = real_data / "strain" / "screens"

    def near(box: tuple[int, ...], expected: tuple[int, ...], within: int) -> bool:
        return bool(np.abs(np.subtract(box, expected)).max() <= within)

    read = {
        name: read_dual_view(cv2.imread(str(folder / f"{name}.png"))[..., ::-1].copy(), Reading("hard-high"))
        for name in ("skerl_aixplorer_swe_dualview", "swepy_mach30_swe_dualview")
    }
    skerl, swepy = read.values()
    # As measured by eye; stacked, with colour above. Tissue begins at the skin, below the frame's edge.
    assert near(skerl.panes.coloured, (308, 230, 830, 527), 36)
    assert near(skerl.panes.clean, (308, 534, 830, 831), 36)
    assert near(skerl.bar.box, (1031, 229, 1044, 378), 2)
    assert skerl.rejection is None
    roi = [v + skerl.panes.coloured[i % 2] for i, v in enumerate(skerl.roi)]
    assert near(roi, (409, 283, 712, 392), 12)
    assert near(swepy.panes.coloured, (1181, 414, 1770, 852), 60)
    assert near(swepy.bar.box, (2161, 414, 2180, 634), 2)
    assert swepy.rejection is not None  # all of one colour, under a drawn frame
    for name in ("spicture_axial_strain", "spicture_lateral_strain"):
        rgb = cv2.imread(str(folder / f"{name}.png"))[..., ::-1].copy()
        assert find_bar(rgb).reason is Reason.BAR_NOT_INVERTIBLE  # found, but its ends are black and white
        assert read_dual_view(rgb, Reading("soft-high")).rejection is not None
