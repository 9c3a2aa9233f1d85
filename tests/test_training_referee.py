"""The second simulator: right in its physics, reproducible, plausible, and never learnt from."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter
from typer.testing import CliRunner

import training
from training.cli.app import find_config
from training.cli.fit import run_fit
from training.cli.main import app
from training.errors import OnlyForJudging
from training.pairs.folder import open_folder, read_pair, write_header
from training.pairs.generate import pair_path
from training.pairs.pair import Pair
from training.referee.estimator import SAMPLE_MM, Estimator, estimate_strain
from training.referee.layout import STEP_MM, Layout, draw_kind, draw_layout
from training.referee.make import MAKER, make_pair
from training.referee.mechanics import Press, axial_displacement, triangulate
from training.referee.outlines import draw_outline
from training.referee.scanner import draw_scanner, picture
from training.referee.tissue import CONTRADICTION_SHARE, KIND_SHARES, LOOKS
from training.simulator.elasticity import Compression, axial_strain

SEEDS = range(2_900_000, 2_900_004)
PLATE = Press(depth=0.01, half_width=np.inf, bonded_bottom=False)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [make_pair(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    return [draw_layout(np.random.default_rng(seed)) for seed in range(14)]


def points(xs, zs):
    x, z = np.meshgrid(xs, zs)
    return np.stack([x.ravel(), z.ravel()])


# The mechanics


@pytest.mark.parametrize("k", [0.3, 2, 10])
def test_circular_inclusion(k):
    """An inclusion k times stiffer is strained 2 / (1 + k) of what is around it."""
    radius = 0.1

    def away(x, z):
        return np.hypot(x, z - 0.5)

    mesh = triangulate(0.5, 1.0, 0.03, np.random.default_rng(0), lambda x, z: away(x, z) < 1.4 * radius)
    zs = 0.5 + np.linspace(-0.6, 0.6, 25) * radius
    at = points(np.linspace(-0.6, 0.6, 9) * radius, zs)
    down = axial_displacement(mesh, lambda x, z: np.where(away(x, z) < radius, k, 1.0), PLATE, at)
    strain = -np.gradient(down.reshape(len(zs), -1), zs, axis=0)
    assert strain.mean() / 0.01 == pytest.approx(2 / (1 + k), rel=0.025)


def test_even_tissue_under_a_plate_is_evenly_strained():
    mesh = triangulate(3.0, 5.0, 1.0, np.random.default_rng(1))
    at = points(np.linspace(-3, 3, 7), np.linspace(0, 5, 11))
    down = axial_displacement(mesh, lambda x, _: np.full_like(x, 7.0), replace(PLATE, depth=0.1), at)
    np.testing.assert_allclose(down, 0.1 * (1 - at[1] / 5), atol=1e-9)


def test_agrees_with_the_first_simulator():
    """Quadrilaterals with reduced integration and mixed triangles, on one stiffness map under one press."""
    n, rng = 64, np.random.default_rng(1)
    modulus = np.exp(14 * gaussian_filter(rng.normal(size=(n, n)), 6))
    assert modulus.max() / modulus.min() > 50
    theirs = axial_strain(modulus, 1 / n, 1 / n, Compression(mean=0.01, tilt=0.2, curvature=0.1))

    def at(x, z):
        row, column = ((c * n).astype(int).clip(0, n - 1) for c in (z, x + 0.5))
        return modulus[row, column]

    mesh = triangulate(0.5, 1.0, 0.03, rng)
    press = replace(PLATE, tilt=0.2, bulge=0.1)
    where = points((np.arange(n) + 0.5) / n - 0.5, np.arange(n + 1) / n)
    ours = -n * np.diff(axial_displacement(mesh, at, press, where, poisson=0.495).reshape(n + 1, n), axis=0)
    difference = (ours - theirs) / 0.01
    assert np.sqrt((difference**2).mean()) < 0.012
    assert np.abs(difference[4:-4, 4:-4]).max() < 0.08


def test_bonded_bottom_and_free_flanks():
    """Only the face is pressed, and its strain fades with depth, as under a probe and not under a plate."""
    mesh = triangulate(30.0, 40.0, 2.0, np.random.default_rng(2))
    press = Press(depth=1.0, half_width=15.0, grips=True)
    at = points([0.0, 28.0], np.linspace(0.0, 40.0, 9))
    down = axial_displacement(mesh, lambda x, _: np.ones_like(x), press, at).reshape(9, 2)
    assert down[0, 0] == pytest.approx(1.0)
    np.testing.assert_allclose(down[-1], 0.0, atol=1e-9)
    assert abs(down[0, 1]) < 0.3
    strain = -np.diff(down[:, 0]) / 5.0
    assert strain[2] > 1.5 * strain[-1] > 0


def test_movement_of_the_face():
    press = Press(depth=2.0, half_width=10.0, tilt=0.1, bulge=0.2)
    np.testing.assert_allclose(press.movement(np.array([-10.0, 0.0, 10.0]), 10.0), [1.4, 2.0, 1.8])


# The estimate of strain


def test_estimator_measures_a_slope_and_its_noise_grows_with_depth():
    z = np.arange(100)[:, None] * SAMPLE_MM
    displacement = 1.0 - 0.01 * np.repeat(z, 200, axis=1)
    quiet = Estimator(window=2.4, aside=1.2, noise=0.0, growth=2.0, median=1)
    strain = estimate_strain(displacement, np.ones((100, 200)), quiet, np.random.default_rng(0))
    np.testing.assert_allclose(strain, 0.01, rtol=1e-9)
    noisy = estimate_strain(
        displacement, np.ones((100, 200)), replace(quiet, noise=0.05), np.random.default_rng(0)
    )
    assert noisy[:25].std() == pytest.approx(0.05 * 0.01, rel=0.05)
    assert 1.4 < noisy[-25:].std() / noisy[:25].std() < 2.2


def test_estimator_cannot_follow_what_gives_no_echo():
    quality = np.ones((80, 200))
    quality[:, 100:] = 0.0
    estimator = Estimator(window=2.4, aside=1.2, noise=0.05, growth=1.0, median=1)
    flat = np.repeat(-0.01 * np.arange(80)[:, None] * SAMPLE_MM, 200, axis=1)
    strain = estimate_strain(flat, quality, estimator, np.random.default_rng(0))
    assert strain[:, 110:].std() > 1.8 * strain[:, :90].std()


# What is drawn


def test_shares_of_kinds_and_contradictions():
    rng = np.random.default_rng(0)
    drawn = [draw_kind(rng) for _ in range(6000)]
    counts = Counter(look for look, _ in drawn)
    for kind, share in KIND_SHARES.items():
        assert counts[kind] / len(drawn) == pytest.approx(share, abs=0.02)
    for kind in ("benign", "malignant", "cyst", "fat-like"):
        others = [look != stiffness for look, stiffness in drawn if look == kind]
        assert np.mean(others) == pytest.approx(CONTRADICTION_SHARE, abs=0.04)
    assert sum(KIND_SHARES.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("form", sorted({form for look in LOOKS.values() for form in look.forms}))
def test_outlines_have_about_their_size(form):
    x, z = np.meshgrid(np.arange(-15.0, 15.0, 0.1), np.arange(-12.0, 12.0, 0.1))
    for seed in range(5):
        whole, body = draw_outline(form, np.random.default_rng(seed), x, z, 12.0, 8.0)
        assert (body <= whole).all()
        assert 0.35 < body.sum() * 0.01 / (np.pi * 12 * 8 / 4) < 1.3
        assert np.abs(x[body]).max() < 8
        assert np.abs(z[body]).max() < 6.5


def test_layouts_are_stiff_and_soft_where_they_should_be(layouts):
    with_lesion = [layout for layout in layouts if layout.mask.any()]
    assert len(with_lesion) > 7
    for layout in layouts:
        assert layout.stiffness.min() > 0.1
        assert 10 ** (layout.echo_db.max() / 20) < 10
        assert np.median(layout.stiffness[:5]) > 5  # skin
        assert layout.attenuation.min() >= 0
    for layout in with_lesion:
        assert np.median(layout.stiffness[layout.mask]) == pytest.approx(layout.info["stiffness"], rel=0.01)


# The picture


def test_lesions_are_darker_or_brighter_as_their_kind_says(layouts):
    """The same breast with the same lesion, drawn as each kind would show."""
    layout = next(one for one in layouts if one.mask.sum() * STEP_MM**2 > 60)
    scanner = replace(
        draw_scanner(np.random.default_rng(0)), bands_mhz=(8.0,), steering=(0.0,), persistence=1, curve="log"
    )
    ring = binary_dilation(layout.mask, iterations=20) & ~binary_dilation(layout.mask, iterations=4)
    shape = picture(layout, scanner, np.random.default_rng(0)).shape
    z, x = ((np.arange(n) + 0.5) * scanner.spacing for n in shape)
    grid = np.meshgrid(x - layout.width_mm / 2, z)
    inside, around = (layout.at(m.astype(float), *grid) > 0.5 for m in (layout.mask, ring))
    around &= grid[1] < layout.z[np.nonzero(layout.mask)[0].max()]  # not what lies in its shadow

    def contrast(db):
        changed = replace(layout, echo_db=np.where(layout.mask, db, 0.0), surface=layout.surface * 0)
        image = picture(changed, scanner, np.random.default_rng(1)).astype(float)
        return image[inside].mean() - image[around].mean()

    cyst, malignant, even, bright = (contrast(db) for db in (-35.0, -10.0, 0.0, 6.0))
    assert cyst < malignant - 10 < even - 20
    assert bright > even + 8


def test_attenuation_casts_a_shadow(layouts):
    layout = layouts[0]
    block = np.zeros(layout.mask.shape, dtype=bool)
    column = np.abs(layout.x) < 4
    block[np.ix_((layout.z > 8) & (layout.z < 14), column)] = True
    flat = replace(
        layout, echo_db=layout.echo_db * 0, surface=layout.surface * 0, scatterers=block * 0 + 40.0
    )
    scanner = replace(draw_scanner(np.random.default_rng(3)), bands_mhz=(8.0,), steering=(0.0,))
    images = [
        picture(replace(flat, attenuation=0.65 + extra * block), scanner, np.random.default_rng(0)).astype(
            float
        )
        for extra in (-0.6, 0.0, 1.2)
    ]
    rows = slice(round(16 / scanner.spacing), round(20 / scanner.spacing))
    middle = round(layout.width_mm / 2 / scanner.spacing)
    behind = [image[rows, middle - 15 : middle + 15].mean() for image in images]
    assert behind[0] > behind[1] + 8
    assert behind[1] > behind[2] + 15


# Pairs


def test_pairs_are_well_formed(pairs):
    for seed, pair in zip(SEEDS, pairs, strict=True):
        assert pair.bmode.shape == pair.strain.shape
        assert min(pair.bmode.shape) >= 150
        assert 25 < pair.bmode.mean() < 200
        assert pair.bmode.std() > 12
        assert (pair.bmode == 0).mean() < 0.35
        assert np.median(pair.strain) == pytest.approx(0.5, abs=1e-3)
        assert pair.info["seed"] == seed
        assert pair.info["group"] == f"referee-{seed}"
        assert (pair.mask is None) == (pair.info["kind"] == "none")
        if pair.mask is not None:
            assert pair.mask.shape == pair.bmode.shape
    assert len({pair.bmode.shape for pair in pairs}) == len(pairs)


def test_lesion_and_strain_lie_where_the_mask_does():
    """One breast twice, its lesion made soft and made stiff: strain differs most inside the mask."""
    seed = next(s for s in range(3_000_000, 3_000_100) if _kind(s) == "malignant")
    pair = make_pair(seed)
    assert pair.mask is not None
    ring = binary_dilation(pair.mask, iterations=25) & ~binary_dilation(pair.mask, iterations=6)
    bmode = pair.bmode.astype(float)
    assert bmode[pair.mask].mean() < bmode[ring].mean() - 8
    assert np.median(pair.strain[pair.mask]) < 0.8 * np.median(pair.strain[ring])


def _kind(seed: int) -> str:
    info = draw_layout(np.random.default_rng([seed, 0])).info
    stiff = info.get("stiffness", 0) > 5 and info["kind"] == info.get("stiffness_kind")
    return info["kind"] if stiff else "other"


def test_the_command_makes_the_same_pairs_again(pairs, tmp_path):
    arguments = ["simulate", "--simulator", "referee", "--n", "1", "--seed", str(SEEDS[0])]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    stored = read_pair(pair_path(tmp_path, SEEDS[0]))
    np.testing.assert_array_equal(stored.bmode, pairs[0].bmode)
    assert np.abs(stored.strain - pairs[0].strain).max() <= 0.5001 / 255
    assert stored.info == pairs[0].info
    assert open_folder(tmp_path).maker == MAKER


@pytest.mark.parametrize("role", ["training", "validation"])
def test_fit_refuses_what_only_judges(role, tmp_path):
    ours, other, out = tmp_path / "ours", tmp_path / "other", tmp_path / "run"
    write_header(ours, MAKER)
    write_header(other, replace(MAKER, name="simulator"))
    folders = {"training": [other], "validation": [other], role: [other, ours]}
    with pytest.raises(OnlyForJudging, match=r"ours was made by the second simulator.*could not be judged"):
        run_fit(find_config("small"), folders["training"], folders["validation"], out)
    assert not out.exists()


def test_a_missing_library_is_named(tmp_path):
    (tmp_path / "skfem.py").write_text("raise ImportError('planted')")
    command = [sys.executable, "-c", "import training.referee.mechanics"]
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(training.__file__).parents[1])])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **path})
    assert done.returncode == 1
    assert "RefereeUnavailable: scikit-fem is missing; install emode[referee]" in done.stderr
