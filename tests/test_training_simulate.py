"""Simulated pairs: reproducible, plausible, and stored without loss."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from training.errors import PairFolderInvalid, PairInvalid
from training.pairs.folder import open_folder, open_or_create, read_pair, write_header, write_pair
from training.pairs.generate import generate, pair_path
from training.pairs.pair import Pair, strain_index
from training.simulator import tissue
from training.simulator.lesion import draw_kind
from training.simulator.simulate import (
    SIMULATOR,
    TEST_SEEDS,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    simulate_pair,
)

SEEDS = VALIDATION_SEEDS[500:512]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [simulate_pair(seed) for seed in SEEDS]


def test_seed_ranges_are_disjoint():
    ranges = sorted((TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in pairwise(ranges))


def test_pairs_are_well_formed(pairs):
    for pair in pairs:
        assert pair.bmode.shape == pair.strain.shape
        assert min(pair.bmode.shape) >= 200
        assert pair.bmode.dtype == np.uint8
        assert 20 < pair.bmode.mean() < 200
        assert pair.bmode.std() > 15
        assert pair.strain.dtype == np.float32
        assert 0 <= pair.strain.min() <= pair.strain.max() <= 1
        assert np.median(pair.strain) == pytest.approx(0.5, abs=1e-3)
        assert 0.1 < pair.spacing_mm < 0.3
        if pair.mask is not None:
            assert pair.mask.shape == pair.bmode.shape


def test_stiff_lesions_are_strained_less(pairs):
    """Clearly stiff lesions show as hard, unless they fill the view and carry most of the load."""
    hard = [p for p in pairs if p.mask is not None and p.info["stiffness"] > 5 and p.mask.mean() < 0.2]
    assert hard
    for pair in hard:
        assert np.median(pair.strain[pair.mask]) < 0.8 * np.median(pair.strain[~pair.mask])


def test_same_seed_same_pair(pairs):
    again = simulate_pair(SEEDS[0])
    np.testing.assert_array_equal(again.bmode, pairs[0].bmode)
    np.testing.assert_array_equal(again.strain, pairs[0].strain)
    assert again.info == pairs[0].info


def test_another_look_has_the_same_strain(pairs):
    other = simulate_pair(SEEDS[0], look=1)
    np.testing.assert_array_equal(other.strain, pairs[0].strain)
    assert (other.bmode != pairs[0].bmode).mean() > 0.5


def test_another_process_makes_the_same_pairs(pairs, tmp_path):
    """Through the command, in processes of its own; and a second call does nothing twice."""
    command = [sys.executable, "-m", "training.cli", "simulate", "--n", "2", "--seed", str(SEEDS[0])]
    command += ["--out", str(tmp_path), "--processes", "2"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    for seed, pair in zip(SEEDS[:2], pairs[:2], strict=True):
        stored = read_pair(pair_path(tmp_path, seed))
        np.testing.assert_array_equal(stored.bmode, pair.bmode)
        assert np.abs(stored.strain - pair.strain).max() <= 0.5001 / 255
        assert stored.info == pair.info
        assert (stored.mask is None) == (pair.mask is None)
    before = pair_path(tmp_path, SEEDS[0]).stat().st_mtime_ns
    assert list(generate(tmp_path, SEEDS[:2], simulate_pair, SIMULATOR)) == list(SEEDS[:2])
    assert pair_path(tmp_path, SEEDS[0]).stat().st_mtime_ns == before


def test_shares_of_kinds_and_contradictions():
    rng = np.random.default_rng(0)
    kinds = [draw_kind(rng) for _ in range(4000)]
    counts = Counter(look for look, _ in kinds)
    for kind, share in tissue.KIND_SHARES.items():
        assert counts[kind] / len(kinds) == pytest.approx(share, abs=0.03)
    both = [look != stiffness for look, stiffness in kinds if look in ("benign", "malignant")]
    assert np.mean(both) == pytest.approx(tissue.CONTRADICTION_SHARE, abs=0.02)
    assert 0.10 <= tissue.CONTRADICTION_SHARE <= 0.20


def test_strain_index_is_relative_and_clipped():
    np.testing.assert_allclose(strain_index(np.array([[0.0, 1.0, 2.0, 4.0, 9.0]])), [[0, 0.25, 0.5, 1, 1]])


def test_folder_of_another_format_is_refused(tmp_path):
    with pytest.raises(PairFolderInvalid, match=r"dataset\.json is missing"):
        open_folder(tmp_path)
    write_header(tmp_path, SIMULATOR)
    header = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**header, "maker_version": 0}))
    with pytest.raises(
        PairFolderInvalid, match=f"simulator version 0, this is simulator version {SIMULATOR.version}"
    ):
        open_or_create(tmp_path, SIMULATOR)
    (tmp_path / "dataset.json").write_text(json.dumps({**header, "colour": 1}))
    with pytest.raises(PairFolderInvalid, match="emode-pairs version 1"):
        open_folder(tmp_path)


def test_pair_of_unequal_shapes_is_refused(tmp_path, pairs):
    np.savez(tmp_path / "pair-0.npz", bmode=pairs[0].bmode, strain=np.zeros((5, 5), np.uint8))
    with pytest.raises(PairInvalid, match="differ in shape"):
        read_pair(tmp_path / "pair-0.npz")
    np.savez(tmp_path / "pair-1.npz", bmode=pairs[0].bmode, strain=pairs[0].strain)
    with pytest.raises(PairInvalid, match='"strain" must be uint8'):
        read_pair(tmp_path / "pair-1.npz")


def test_failed_write_leaves_nothing(tmp_path, pairs):
    broken = Pair(pairs[0].bmode, pairs[0].strain, None, 0.2, {"bad": object()})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        write_pair(tmp_path / "pair-0.npz", broken)
    assert list(tmp_path.iterdir()) == []
