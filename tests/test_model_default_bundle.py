"""The bundle that ships: it loads, passes its self-test, and beats a map that ignores the image."""

import time

import numpy as np
import pytest

from model.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from model.generator import count_parameters
from model.predict import Predictor
from training.pairs.folder import REFEREE
from training.pairs.provenance import Provenance
from training.scoring.evaluate import evaluate
from training.scoring.references import mean_map
from training.simulator.simulate import SIMULATOR, TEST_SEEDS, TRAINING_SEEDS, simulate_pair

FRESH_SEEDS = TEST_SEEDS[500_000:500_012]
"""Never used elsewhere: `quick` evaluates on the first seeds of TEST_SEEDS."""

MEAN_MAP_SEEDS = TRAINING_SEEDS[0:24]
REQUIRED_GAP = 0.10


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(DEFAULT_BUNDLE)


@pytest.fixture(scope="module")
def predictor(bundle) -> Predictor:
    return Predictor(bundle, device="cpu", threads=1)


def test_beats_the_mean_map_on_fresh_seeds(predictor):
    pairs = [simulate_pair(seed) for seed in FRESH_SEEDS]
    mean = mean_map([simulate_pair(seed).strain for seed in MEAN_MAP_SEEDS])
    report = evaluate(predictor, pairs, training_mean=mean, simulated=True)
    assert report.image.above_mean_map.mean >= REQUIRED_GAP, report.image
    assert report.lesion_box is not None
    assert report.lesion_box.above_mean_map.mean >= REQUIRED_GAP, report.lesion_box
    assert report.image.generated.mean > report.image.shuffled.mean + REQUIRED_GAP
    assert report.agreement < 0.05


def test_card_and_manifest_say_both_numbers(bundle):
    for region in ("image", "lesion_box"):
        for name in ("generated", "mean_map"):
            assert f"{bundle.metrics[region][name]['mean']:.3f}" in bundle.card
    assert bundle.metrics["image"]["above_mean_map"]["mean"] >= REQUIRED_GAP
    for words in ("simulated strain", "Not validated on patients", "Research use only"):
        assert words in bundle.card


def test_was_not_trained_on_what_it_is_judged_by(bundle):
    provenance = Provenance.from_json(bundle.training["provenance"])
    assert provenance.simulated
    for data in (*provenance.training, *provenance.validation):
        assert data.maker != REFEREE
        if data.maker == SIMULATOR.name:
            assert not set(range(int(data.first), int(data.last) + 1)) & set(TEST_SEEDS)


def test_knows_its_limits(predictor):
    """Tissue of its own kind is familiar; what is no ultrasound is not. The card has rates on real frames."""
    own = predictor.predict([simulate_pair(seed).bmode for seed in FRESH_SEEDS])
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    foreign = [rng.integers(0, 256, (300, 400), dtype=np.uint8), ramp, 255 - ramp.T.copy()]
    assert sum(made.unfamiliar for made in own) <= 1
    assert all(made.unfamiliar for made in predictor.predict(foreign))
    assert all(0.0 <= made.confidence <= 1.0 for made in own)


def test_is_small(bundle):
    assert count_parameters(bundle.build_generator()) <= 8_000_000
    assert sum(path.stat().st_size for path in DEFAULT_BUNDLE.iterdir()) < 16_000_000


def test_is_quick_enough(predictor):
    """Generous: this machine may be busy. The measured figure stands in the documentation."""
    frame = np.full((480, 600), 90, np.uint8)
    predictor.predict([frame])
    before = time.perf_counter()
    for _ in range(5):
        predictor.predict([frame])
    assert (time.perf_counter() - before) / 5 < 2.0
