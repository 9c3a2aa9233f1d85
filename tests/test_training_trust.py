"""Fitting what a bundle knows of its own limits."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from dicom_node.dicom.reading import read_image
from dicom_node.dicom.skip import Skip
from model.bundle import DEFAULT_BUNDLE, read_bundle
from model.familiarity import FAMILIAR_FROM
from model.inference import Elastogram
from model.look import look_of
from training.bundling.trust import fit_trust
from training.cli.app import app
from training.cli.main import main  # noqa: F401 - registers the commands
from training.errors import TooFewFrames, TooFewPairs
from training.pairs.folder import Maker, write_header, write_pair
from training.pairs.pair import Pair
from training.pairs.split import side_of
from training.pairs.stills import Still, read_index, read_still
from training.trust.confidence import MOST_KNOTS, fit_confidence
from training.trust.familiarity import fit_familiarity, gather, meet_strangers
from training.trust.looks import vary
from training.trust.report import flagged, share_of
from training.trust.strangers import STRANGERS

MUST_BE_FLAGGED = (
    "black", "plain grey", "gradient", "bars", "noise", "writing", "checkers", "photograph", "test object",
    "sector", "organ in a sector", "probe in air", "two greys",
)  # fmt: skip


def tissue(seed: int) -> np.ndarray:
    """Layers that fade with depth, under speckle: quicker than a simulated phantom."""
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(180, 260)), int(rng.integers(220, 320))
    depth = np.arange(height)[:, None] / height
    wave = 0.03 * np.sin(np.linspace(0, rng.uniform(3, 9), width))[None]
    bands = 30 * np.sin((depth + wave) * rng.uniform(15, 40)) + rng.uniform(110, 150) * (1 - 0.5 * depth)
    real, imaginary = (cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 2.0) for _ in range(2))
    envelope = np.hypot(real, imaginary)
    return np.clip(bands + 18 * np.log(envelope / np.median(envelope) + 1e-3), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def frames() -> list[tuple[str, np.ndarray]]:
    return [(f"patient-{seed // 2}", tissue(seed)) for seed in range(80)]


@pytest.fixture(scope="module")
def fitted(frames):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.trust.familiarity.STRANGERS_PER_KIND", 15)
        return fit_familiarity([gather("drawn", frames)], meet_strangers([frame for _, frame in frames]))


class TestFamiliarity:
    def test_held_out_frames_of_the_same_origin_are_familiar(self, fitted):
        values = np.array([fitted.of(tissue(seed)) for seed in range(1000, 1040)])
        assert np.mean(values < FAMILIAR_FROM) <= 0.1
        assert np.median(values) > 0.2

    @pytest.mark.parametrize("kind", MUST_BE_FLAGGED)
    def test_other_pictures_are_not(self, fitted, frames, kind):
        rng = np.random.default_rng(99)
        looks = [look_of(STRANGERS[kind](rng, frames[i][1])) for i in range(10)]
        assert flagged(fitted, looks).flagged >= 9

    def test_a_kind_that_it_was_never_told_of_is_flagged_as_well(self, frames):
        told = {kind: STRANGERS[kind] for kind in ("sector", "test object", "photograph")}
        kinds = meet_strangers([frame for _, frame in frames], told)
        known = fit_familiarity([gather("drawn", frames)], kinds)
        rng = np.random.default_rng(98)
        for kind in ("noise", "writing", "black"):
            looks = [look_of(STRANGERS[kind](rng, frames[0][1])) for _ in range(10)]
            assert flagged(known, looks).flagged == 10, kind

    def test_the_same_frames_give_the_same_bytes(self, frames):
        kinds = meet_strangers([frames[0][1]], {"noise": STRANGERS["noise"], "bars": STRANGERS["bars"]})
        first, second = (
            fit_familiarity([gather("drawn", frames[:40], looks=0)], kinds).to_json() for _ in range(2)
        )
        assert first == second

    def test_too_few_groups_are_refused(self, frames):
        with pytest.raises(TooFewFrames, match="drawn: 5 groups of frames, at least 20"):
            gather("drawn", frames[:10])


@pytest.mark.parametrize("seed", range(25))
def test_varied_looks_are_pictures_of_the_same_kind(seed):
    frame = tissue(seed)
    first, second = (vary(np.random.default_rng(seed), frame) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.dtype == np.uint8
    assert min(first.shape) >= 64
    assert first.std() > 3


def test_interval_of_wilson():
    # 0 of 10 and 5 of 10: Newcombe 1998, 10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E
    assert share_of(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert (share_of(5, 10).low, share_of(5, 10).high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert (share_of(0, 0).low, share_of(0, 0).high) == (0.0, 1.0)


class TestConfidence:
    def test_finds_the_curve_that_pairs_were_drawn_from(self):
        rng = np.random.default_rng(0)
        doubts = rng.uniform(0.05, 0.6, 400)
        nccs = 1 - 1.2 * doubts + rng.normal(0, 0.05, 400)
        known = fit_confidence(doubts.tolist(), nccs.tolist(), simulated=True)
        for doubt in (0.1, 0.3, 0.5):
            assert known.confidence_of(doubt) == pytest.approx(1 - 1.2 * doubt, abs=0.04)
        assert len(known.doubt) == MOST_KNOTS
        assert np.all(np.diff(known.ncc) <= 0)

    def test_never_rises_even_where_the_pairs_do(self):
        rng = np.random.default_rng(1)
        doubts = rng.uniform(0, 1, 200)
        known = fit_confidence(doubts.tolist(), (doubts * 0.5 + 0.2).tolist(), simulated=False)
        assert np.ptp(known.ncc) == pytest.approx(0, abs=1e-9)
        assert known.confidence_of(0.5) == pytest.approx(0.45, abs=0.03)

    def test_pairs_without_any_difference_make_one_knot(self):
        known = fit_confidence([0.2] * 30, [0.7] * 30, simulated=True)
        assert (known.doubt.tolist(), known.confidence_of(3.0)) == ([pytest.approx(0.2)], pytest.approx(0.7))

    def test_too_few_pairs_are_refused(self):
        with pytest.raises(TooFewPairs, match="19 to calibrate"):
            fit_confidence([0.1] * 19, [0.5] * 19, simulated=True)


class Oracle:
    """Knows each true map, and spoils it with noise that it announces."""

    def __init__(self, truths):
        self.truths = truths

    def predict(self, frames):
        made = []
        for frame in frames:
            truth, error = self.truths[frame.tobytes()]
            rng = np.random.default_rng(0)
            strain = np.clip(truth + rng.laplace(0, error, truth.shape), 0, 1).astype(np.float32)
            spread = np.full(truth.shape, error, np.float32)
            made.append(Elastogram(strain, np.zeros((*truth.shape, 3), np.uint8), 0.0, spread=spread))
        return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory, frames):
    """Training and held-out pairs, and what the oracle knows."""
    root, truths = tmp_path_factory.mktemp("pairs"), {}
    for name, start in (("training", 0), ("held-out", 40)):
        write_header(root / name, Maker("test", 1, simulated=True))
        for number in range(40):
            group, frame = frames[start + number]
            rng = np.random.default_rng(number)
            ramp = np.linspace(0.1, 0.9, frame.shape[1], dtype=np.float32)
            strain = np.tile(ramp, (frame.shape[0], 1))
            truths[frame.tobytes()] = strain, float(rng.uniform(0.01, 0.3))
            pair = Pair(frame, strain, None, 0.1, {"group": group})
            write_pair(root / name / f"pair-{number:08d}.npz", pair)
    return root, truths


def test_fit_trust_of_folders(folders, monkeypatch):
    root, truths = folders
    monkeypatch.setattr("training.trust.familiarity.STRANGERS_PER_KIND", 5)
    made = fit_trust(Oracle(truths), root / "training", root / "held-out")
    assert made.trust.confidence is not None
    assert made.trust.confidence.pairs == 40
    assert made.metrics["confidence"]["rank_correlation"] > 0.9
    assert made.metrics["confidence"]["mean_error"] < made.metrics["confidence"]["mean_error_of_the_mean"]
    assert made.metrics["familiarity"]["good"]["held-out pairs"]["flagged"] <= 3
    assert set(made.metrics["familiarity"]["unmet"]) == set(STRANGERS)
    assert made.trust.familiarity is not None
    assert [one.cloud.name for one in made.trust.familiarity.references] == ["training pairs"]


def test_the_trust_command_writes_a_bundle_that_knows_its_limits(folders, tmp_path, monkeypatch):
    root, _ = folders
    monkeypatch.setattr("training.trust.familiarity.STRANGERS_PER_KIND", 5)
    done = CliRunner().invoke(
        app,
        [
            "trust", "--bundle", str(DEFAULT_BUNDLE), "--data", str(root / "held-out"),
            "--training", str(root / "training"), "--out", str(tmp_path / "bundle"),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    before, after = read_bundle(DEFAULT_BUNDLE), read_bundle(tmp_path / "bundle")
    assert after.weights_sha256 == before.weights_sha256
    assert after.trust.familiarity is not None
    assert (after.trust.confidence is None) == (not before.generator.uncertainty)
    assert "familiarity" in after.metrics["trust"]


@pytest.fixture(scope="module")
def of_stills(real_data):
    """Familiarity fitted on half of the training side of real stills, and the validation side's frames."""
    entries = read_index(real_data / "busi")
    training = [entry for entry in entries if side_of(entry.group) == "training"][::2]
    validation = [entry for entry in entries if side_of(entry.group) == "validation"]
    ours = [(still.group, still.frame) for still in map(read_still, training) if isinstance(still, Still)]
    others = [still.frame for still in map(read_still, validation) if isinstance(still, Still)]
    return fit_familiarity([gather("stills", ours)], meet_strangers([frame for _, frame in ours])), others


@pytest.mark.real_data
def test_good_breast_frames_are_familiar(of_stills):
    """At most 5 % of the validation groups' stills are flagged."""
    known, frames = of_stills
    share = sum(known.of(frame) < FAMILIAR_FROM for frame in frames) / len(frames)
    assert len(frames) > 100
    assert share <= 0.05


@pytest.mark.real_data
def test_panes_that_show_no_breast_are_not(of_stills, real_data: Path):
    """At least 95 % of the panes that the intake gate lets pass are flagged: none shows a breast."""
    known, _ = of_stills
    images = [read_image(path) for path in sorted((real_data / "us-dicom").glob("*.dcm"))]
    panes = [pane.grey for image in images if not isinstance(image, Skip) for pane in image.panes]
    assert len(panes) >= 8
    assert sum(known.of(pane) < FAMILIAR_FROM for pane in panes) / len(panes) >= 0.95
