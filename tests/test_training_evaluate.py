"""Evaluation against answers known beforehand."""

from collections.abc import Sequence

import numpy as np
import pytest

from model.inference import Elastogram
from training.errors import TooFewPairs
from training.pairs.pair import Pair
from training.scoring.evaluate import evaluate
from training.scoring.scores import bootstrap, lesion_box, mean_map, ncc, repeat_scan
from training.simulator.simulate import VALIDATION_SEEDS, simulate_pair


class Oracle:
    """Knows the true strain of a few frames, or pretends that all is alike."""

    def __init__(self, pairs: Sequence[Pair], *, blind: bool) -> None:
        self.answers = {pair.bmode.tobytes(): pair.strain for pair in pairs}
        self.blind = blind

    def predict(self, frames: Sequence[np.ndarray]) -> list[Elastogram]:
        results = []
        for frame in frames:
            strain = np.full(frame.shape, 0.5, np.float32) if self.blind else self.answers[frame.tobytes()]
            results.append(Elastogram(strain, np.zeros((*frame.shape, 3), np.uint8), 0.0))
        return results


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [simulate_pair(seed) for seed in VALIDATION_SEEDS[600:608]]


def test_knowing_everything_scores_one(pairs):
    report = evaluate(Oracle(pairs, blind=False), pairs, training_mean=None, simulated=True)
    assert report.image.generated.mean == pytest.approx(1.0)
    assert report.lesion_box is not None
    assert report.lesion_box.generated.mean == pytest.approx(1.0)
    assert report.image.mean_map.mean < report.image.repeat_scan.mean < 1.0
    assert report.image.shuffled.mean < report.image.repeat_scan.mean
    gap = report.image.generated.mean - report.image.mean_map.mean
    assert report.image.above_mean_map.mean == pytest.approx(gap, abs=1e-3)
    assert [row["seed"] for row in report.per_pair] == list(VALIDATION_SEEDS[600:608])


def test_a_constant_scores_nothing(pairs):
    report = evaluate(
        Oracle(pairs, blind=True), pairs, training_mean=mean_map([p.strain for p in pairs]), simulated=True
    )
    assert report.image.generated.mean == 0.0
    assert report.image.above_mean_map.mean < -0.2
    assert report.mean_map_from == "the training set"


def test_two_pairs_are_no_evaluation(pairs):
    with pytest.raises(TooFewPairs, match="2 to evaluate on"):
        evaluate(Oracle(pairs, blind=True), pairs[:2], training_mean=None, simulated=True)


def test_ncc_is_pearson():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30, 40)).astype(np.float32)
    assert ncc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-6)
    assert ncc(a, 2 * a + 1) == pytest.approx(1.0)
    assert ncc(a, np.full_like(a, 0.3)) == 0.0


def test_lesion_box_has_a_margin_and_stays_inside():
    mask = np.zeros((50, 60), bool)
    mask[10:20, 55:60] = True
    assert lesion_box(mask) == (slice(8, 22), slice(54, 60))


def test_repeat_scan_is_the_same_each_time(pairs):
    once, twice = repeat_scan(pairs[0].strain, 3), repeat_scan(pairs[0].strain, 3)
    np.testing.assert_array_equal(once, twice)
    assert np.abs(once - repeat_scan(pairs[0].strain, 4)).max() > 0.05


def test_bootstrap_interval_holds_the_mean():
    values = np.random.default_rng(1).normal(0.7, 0.1, 200).tolist()
    interval = bootstrap(values)
    assert interval.low < interval.mean < interval.high
    # Normal theory: mean +- 1.96 deviation / sqrt(n).
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * interval.deviation / 200**0.5, rel=0.1)
    assert bootstrap(values) == interval
