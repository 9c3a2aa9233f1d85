"""Familiarity and confidence at run time: traits, references, knots, and their way through a bundle."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from model.bundle import read_bundle, write_bundle
from model.confidence import Calibration, doubt_of
from model.errors import BundleInvalid, FrameInvalid, SelfCheckFailed
from model.familiarity import FAMILIAR_FROM, Cloud, Familiarity, Reference, strangeness
from model.inference import Elastogram
from model.look import TRAITS, look_of
from model.manifest import manifest_digest
from model.predict import Predictor
from model.trust import Trust
from test_model_bundle import bundle  # noqa: F401 - a fixture

N = len(TRAITS)


def trait(frame: np.ndarray, name: str) -> float:
    return float(look_of(frame)[TRAITS.index(name)])


def layered(height: int = 200, width: int = 260) -> np.ndarray:
    """Something like tissue: bands across the beam, fading with depth, grain."""
    rng = np.random.default_rng(1)
    depth = np.arange(height)[:, None] / height
    bands = 40 * np.sin(12 * np.pi * depth**1.3) + 150 * (1 - 0.5 * depth)
    grain = cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 1.5)
    return np.clip(bands + 25 * grain / grain.std(), 0, 255).astype(np.uint8)


def cloud(name: str, first: float = 0.0) -> Cloud:
    """Standard normal traits about 0, the first about `first`."""
    centre = np.zeros(N)
    centre[0] = first
    return Cloud(name, centre, np.eye(N))


def known(centre: np.ndarray | float = 0.0, **changes: object) -> Familiarity:
    """One reference, one kind ten deviations away along the first trait."""
    here = replace(cloud("here"), centre=np.zeros(N) + centre)
    # Halfway between the two a look is as near to the one as to the other.
    plain = Reference(here, 50, np.array([[-100.0, 20.0]]), (np.log(N), 0.5), (0.0, 1.0), (0.0, 1.0))
    return Familiarity((replace(plain, **changes),), (cloud("a kind", 10.0),))


class TestLook:
    def test_is_finite_for_whatever_comes(self):
        shapes = ((24, 24), (64, 900), (1200, 80))
        frames = [np.full(shape, level, np.uint8) for shape in shapes for level in (0, 128, 255)]
        frames.append(np.random.default_rng(0).integers(0, 256, (300, 200), dtype=np.uint8))
        for frame in frames:
            look = look_of(frame)
            assert look.shape == (N,)
            assert np.isfinite(look).all()

    def test_same_frame_same_look(self):
        frame = layered()
        assert np.array_equal(look_of(frame), look_of(frame.copy()))

    def test_colour_is_refused(self):
        with pytest.raises(FrameInvalid):
            look_of(np.zeros((64, 64, 3), np.uint8))

    def test_a_sector_is_dark_in_its_corners_and_begins_narrow(self):
        frame = layered()
        y, x = np.mgrid[0:200, 0:260]
        sector = np.where(np.abs(x - 130) < 20 + 0.6 * y, frame, 0).astype(np.uint8)
        assert trait(sector, "top corners") > trait(frame, "top corners") + 2
        assert trait(sector, "narrow top") < trait(frame, "narrow top") - 0.7

    def test_turning_turns_layers_and_fading(self):
        frame = layered()
        assert trait(frame, "coarse layers") > 1
        assert trait(np.rot90(frame).copy(), "coarse layers") < -1
        assert trait(frame, "fading") > 0.5
        assert trait(frame[::-1].copy(), "fading") == pytest.approx(-trait(frame, "fading"), abs=0.05)

    def test_black_borders_and_writing_on_them_do_not_count(self):
        frame = layered()
        screen = np.zeros((260, 400), np.uint8)
        screen[30:230, 90:350] = frame
        cv2.putText(screen, "DR 60  G 52", (2, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 200, 1)
        assert np.abs(look_of(screen) - look_of(frame)).max() < 0.35

    def test_size_matters_little(self):
        frame = layered(400, 520)
        half = cv2.resize(frame, (260, 200), interpolation=cv2.INTER_AREA)
        assert np.abs(look_of(half) - look_of(frame)).max() < 0.35


class TestReference:
    def test_known_answers(self):
        assert cloud("x").distances_of(np.full((3, N), 2.0)).tolist() == [4.0 * N] * 3
        away = np.full(N, 1.0)
        away[0] = -5.0  # squared distance N + 24; to the kind N - 1 + 225, so 200 farther: likeness -5
        familiarity = known(log_distance=(np.log(N + 24), 1.0))
        assert familiarity.references[0].likenesses_of(away, familiarity.kinds).tolist() == [-5.0]
        assert familiarity.of_look(away) == pytest.approx(0.5)  # neither far out nor like another
        far = np.zeros(N)
        far[1] = 100.0
        assert known().of_look(far) < 1e-12
        # At 4.6526 along the first trait it is 20 x 4.6526 - 100 nearer to the kind than usual: 4.6526.
        like = np.zeros(N)
        like[0] = 4.6526
        assert known().references[0].likenesses_of(like, known().kinds)[0] == pytest.approx(4.6526)
        near = known(likeness=(2.3263, 1.0), log_distance=(5.0, 1.0))
        assert near.of_look(like) == pytest.approx(0.01, rel=1e-3)

    def test_a_little_of_both_is_stranger_than_a_little_of_either(self):
        usual = (0.0, 1.0), (0.0, 2.0)
        assert strangeness(1.5, 4.0, *usual) == 3.5
        assert strangeness(1.5, -4.0, *usual) == 1.5
        assert strangeness(-1.5, -4.0, *usual) == 0.0

    def test_stranger_is_less_familiar(self):
        shares = [known().of_look(np.full(N, step)) for step in (0.5, 1.0, 1.5, 2.0)]
        assert shares == sorted(shares, reverse=True)

    def test_the_reference_that_knows_a_frame_best_counts(self):
        frame = layered()
        here, elsewhere = known(look_of(frame)), known(look_of(frame) + 50)
        assert elsewhere.of(frame) < FAMILIAR_FROM
        both = Familiarity((*elsewhere.references, *here.references), here.kinds)
        assert both.of(frame) == here.of(frame) > FAMILIAR_FROM

    def test_resembles_the_nearest_kind(self):
        frame = layered()
        there = replace(cloud("there"), centre=look_of(frame) + 1)
        far = replace(cloud("far"), centre=look_of(frame) + 9)
        assert replace(known(), kinds=(far, there)).resembles(frame) == "there"

    def test_json_round_trip_and_refusals(self):
        data = json.loads(json.dumps(known().to_json()))
        again = Familiarity.from_json(data, "here")
        assert again.of(layered()) == known().of(layered())
        assert again.to_json() == data
        for change, words in (
            ({"look_version": 99}, "looks of version 99"),
            ({"references": []}, "references must be a list that is not empty"),
            ({"kinds": {}}, "kinds must be a list"),
            ({"extra": 1}, "unknown keys: extra"),
        ):
            with pytest.raises(BundleInvalid, match=words):
                Familiarity.from_json(data | change, "here")
        for change, words in (
            ({"centre": [0.0]}, rf"centre must be finite numbers of shape \({N},\)"),
            ({"precision": [["x"] * N]}, "precision must be finite"),
            ({"log_distance": [0.0, 0.0]}, "deviation must be above 0"),
            ({"scales": [[0.0, 0.0]]}, "every deviation must be above 0"),
            ({"scales": [[0.0, 1.0], [0.0, 1.0]]}, r"scales must be finite numbers of shape \(1, 2\)"),
            ({"frames": 1.5}, "frames must be a whole number"),
        ):
            broken = data | {"references": [data["references"][0] | change]}
            with pytest.raises(BundleInvalid, match=words):
                Familiarity.from_json(broken, "here")


class TestConfidence:
    def test_doubt_is_error_over_contrast(self):
        strain = np.tile(np.array([0.2, 0.8], np.float32), (4, 5))
        assert doubt_of(strain, np.full_like(strain, 0.06)) == pytest.approx(0.06 / 0.3, rel=1e-5)
        assert doubt_of(np.full_like(strain, 0.5), np.full_like(strain, 0.06)) > 1000

    def test_straight_between_knots_and_flat_beyond(self):
        scale = Calibration(np.array([0.1, 0.3, 0.5]), np.array([0.9, 0.7, -0.1]), 30, True)
        assert [scale.confidence_of(doubt) for doubt in (0.0, 0.1, 0.2, 0.3, 0.5, 9.0)] == pytest.approx(
            [0.9, 0.9, 0.8, 0.7, 0.0, 0.0]
        )

    def test_json_round_trip_and_refusals(self):
        data = Calibration(np.array([0.1, 0.3]), np.array([0.9, 0.7]), 30, True).to_json()
        assert Calibration.from_json(data, "here").to_json() == data
        for change, words in (
            ({"doubt": [0.3, 0.1]}, "doubt must rise"),
            ({"ncc": [0.7, 0.9]}, "ncc must not"),
            ({"ncc": [0.7]}, "same length"),
            ({"doubt": "x"}, "same length"),
            ({"pairs": True}, "pairs must be"),
        ):
            with pytest.raises(BundleInvalid, match=words):
                Calibration.from_json(data | change, "here")


class TestBundle:
    @pytest.fixture
    def trusting(self, bundle):  # noqa: F811
        calibration = Calibration(np.array([0.1, 0.3]), np.array([0.9, 0.7]), 30, True)
        return replace(bundle, trust=Trust(known(), calibration))

    def test_trust_goes_through_a_bundle(self, trusting, tmp_path):
        write_bundle(trusting, tmp_path / "b")
        again = read_bundle(tmp_path / "b")
        assert json.loads((tmp_path / "b" / "manifest.json").read_text())["format_version"] == 2
        assert again.trust.to_bytes() == trusting.trust.to_bytes()
        assert again.trust_sha256 == trusting.trust_sha256 != ""
        made = Predictor(again, device="cpu").predict([layered(), np.zeros((80, 80), np.uint8)])
        assert [one.unfamiliar for one in made] == [True, True]  # of a reference that knows nothing real
        assert made[1].resembles == "a kind"
        assert made[0].confidence is None  # this network has no spread

    def test_damage_is_noticed_and_named(self, trusting, tmp_path):
        write_bundle(trusting, tmp_path / "b")
        path = tmp_path / "b" / "trust.json"
        path.write_bytes(path.read_bytes().replace(b"a kind", b"a king"))
        with pytest.raises(BundleInvalid, match=r"trust\.json has SHA-256"):
            read_bundle(tmp_path / "b")

    def test_version_1_has_none(self, bundle, tmp_path):  # noqa: F811
        write_bundle(bundle, tmp_path / "b")
        assert not (tmp_path / "b" / "trust.json").exists()
        path = tmp_path / "b" / "manifest.json"
        manifest = json.loads(path.read_text()) | {"format_version": 1}
        path.write_text(json.dumps(manifest | {"manifest_sha256": manifest_digest(manifest)}))
        again = read_bundle(tmp_path / "b")
        assert again.trust.familiarity is None
        assert again.trust.confidence is None
        assert again.trust_sha256 == ""
        (made,) = Predictor(again, device="cpu").predict([layered()])
        assert (made.familiarity, made.confidence, made.resembles) == (None, None, None)
        assert not made.unfamiliar

    def test_version_1_with_a_trust_file_is_refused(self, trusting, tmp_path):
        write_bundle(trusting, tmp_path / "b")
        path = tmp_path / "b" / "manifest.json"
        manifest = json.loads(path.read_text()) | {"format_version": 1}
        path.write_text(json.dumps(manifest | {"manifest_sha256": manifest_digest(manifest)}))
        with pytest.raises(BundleInvalid, match=r"unknown keys: trust\.json"):
            read_bundle(tmp_path / "b")

    def test_confidence_needs_spread(self, trusting, monkeypatch):
        predictor = Predictor(trusting, device="cpu")
        strain = np.tile(np.array([0.2, 0.8], np.float32), (40, 40))
        colour = np.zeros((40, 80, 3), np.uint8)
        made = Elastogram(strain, colour, 0.0, spread=np.full_like(strain, 0.06))
        monkeypatch.setattr(predictor._inference, "predict", lambda frames: [made])
        (judged,) = predictor.predict([layered()])
        assert judged.confidence == pytest.approx(0.8, abs=1e-6)

    @pytest.mark.parametrize("agreement", [0.11, float("nan")])
    def test_heads_that_contradict_each_other_give_nothing(self, bundle, monkeypatch, agreement):  # noqa: F811
        predictor = Predictor(bundle, device="cpu")
        (made,) = predictor._inference.predict([layered()])
        off = replace(made, agreement=agreement)
        monkeypatch.setattr(predictor._inference, "predict", lambda frames: [off])
        with pytest.raises(SelfCheckFailed, match=r"colours is off by .* \(allowed 0.1\)"):
            predictor.predict([layered()])
