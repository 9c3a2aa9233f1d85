"""Evaluation against answers known beforehand."""

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest

from model.colormap import get_colormap, invert
from model.generator import GeneratorSpec
from model.inference import Elastogram
from training.cli.tables import table_of
from training.errors import ScoresDiffer, TooFewPairs
from training.pairs.folder import Maker, open_folder, open_or_create, write_pair
from training.pairs.generate import pair_path
from training.pairs.pair import Pair
from training.scoring.compare import compare_scores
from training.scoring.evaluate import BATCH, evaluate, score
from training.scoring.measures import MEASURES, Palette
from training.scoring.pictures import best_median_worst, write_examples
from training.scoring.references import mean_map, repeat_scan
from training.scoring.sources import FolderPairs, open_pairs
from training.simulator.simulate import VALIDATION_SEEDS, simulate_pair

PALETTE = Palette.of(GeneratorSpec())


class Oracle:
    """Knows the true strain of a few frames, and tells it through a function."""

    def __init__(
        self, pairs: Sequence[Pair], told: Callable[[np.ndarray], np.ndarray] = lambda strain: strain
    ) -> None:
        self.answers = {pair.bmode.tobytes(): pair.strain for pair in pairs}
        self.told = told
        self.asked = 0

    def predict(self, frames: Sequence[np.ndarray]) -> list[Elastogram]:
        self.asked += len(frames)
        strains = [self.told(self.answers[frame.tobytes()]) for frame in frames]
        return [
            Elastogram(strain, PALETTE.paint(strain, frame), 0.0)
            for strain, frame in zip(strains, frames, strict=True)
        ]


def blind(strain: np.ndarray) -> np.ndarray:
    return np.full_like(strain, 0.5)


def coarser(pair: Pair, step: int) -> Pair:
    """Every so manieth pixel of a pair, for tests that are about other things."""
    mask = None if pair.mask is None else np.ascontiguousarray(pair.mask[::step, ::step])
    bmode, strain = (np.ascontiguousarray(part[::step, ::step]) for part in (pair.bmode, pair.strain))
    return Pair(bmode, strain, mask, pair.spacing_mm * step, pair.info)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [coarser(simulate_pair(seed), 2) for seed in VALIDATION_SEEDS[648:656]]


@pytest.fixture(scope="module")
def perfect(pairs):
    return evaluate(Oracle(pairs), pairs, training_mean=None, simulated=True)


def test_knowing_everything_scores_best(pairs, perfect):
    best = {"more": 1.0, "less": 0.0}
    for key, region in perfect.measures.items():
        expected = 100.0 if key.endswith("psnr") else best[MEASURES[key].better]
        assert region.generated.mean == pytest.approx(expected, abs=1e-4), key
        assert region.above_mean_map.mean > 0, key
    assert perfect.image is perfect.measures["ncc"]
    assert perfect.lesion_box is perfect.measures["ncc_lesion_box"]
    assert perfect.image.mean_map.mean < perfect.image.repeat_scan.mean < 1.0
    assert perfect.image.shuffled.mean < perfect.image.repeat_scan.mean
    gap = perfect.image.generated.mean - perfect.image.mean_map.mean
    assert perfect.image.above_mean_map.mean == pytest.approx(gap, abs=1e-3)
    way = gap / (perfect.image.repeat_scan.mean - perfect.image.mean_map.mean)
    assert perfect.image.share_of_way.value == pytest.approx(way, abs=1e-3)
    assert perfect.tsukuba["generated"].exact.mean == 1.0
    assert perfect.strain_ratio.typical_factor == pytest.approx(1.0)
    assert [row["seed"] for row in perfect.per_pair] == list(VALIDATION_SEEDS[648:656])


def test_a_constant_scores_nothing(pairs):
    report = evaluate(
        Oracle(pairs, blind), pairs, training_mean=mean_map(p.strain for p in pairs), simulated=True
    )
    for key in ("ncc", "ncc_lesion_box", "ncc_lesion_ring", "ncc_shifted"):
        assert report.measures[key].generated.mean == 0.0
    assert report.image.above_mean_map.mean < -0.2
    assert report.mean_map_from == "the training set"
    # Nothing is hard on it: every lesion looks like score 1, none has a size.
    generated = [row["generated"] for row in report.per_pair if "generated" in row]
    assert {reading["tsukuba"] for reading in generated} == {1}
    assert {reading["eb_ratio"] for reading in generated} == {0.0}
    # Its colour picture still shows the B-mode: luma is a trap without its floors.
    assert report.measures["luma_ncc"].generated.mean > 0.2


def test_hard_for_soft_is_worse_than_nothing(pairs):
    report = evaluate(Oracle(pairs, lambda s: 1 - s), pairs, training_mean=None, simulated=True)
    assert report.image.generated.mean == pytest.approx(-1.0)
    assert report.measures["contrast_sign"].generated.mean == 0.0
    assert report.measures["contrast_sign"].above_mean_map.mean < 0


def test_a_shifted_map_is_found_by_the_shifted_ncc_alone(pairs):
    moved = evaluate(
        Oracle(pairs, lambda s: np.roll(s, (4, 6), axis=(0, 1))), pairs, training_mean=None, simulated=True
    )
    assert moved.measures["ncc_shifted"].generated.mean > 0.99
    assert moved.image.generated.mean < moved.measures["ncc_shifted"].generated.mean - 0.03


def test_two_pairs_are_no_evaluation_nor_are_two_patients(pairs):
    with pytest.raises(TooFewPairs, match="2 to evaluate on"):
        evaluate(Oracle(pairs), pairs[:2], training_mean=None, simulated=True)
    of_two = [replace(pair, info={"group": f"patient {i % 2}"}) for i, pair in enumerate(pairs)]
    with pytest.raises(TooFewPairs, match="8 pairs come from 2 groups"):
        evaluate(Oracle(pairs), of_two, training_mean=None, simulated=False)


def test_groups_widen_intervals(pairs):
    """Four patients, each seen in two frames that are alike."""
    twice = [replace(pairs[i // 2], info={"group": f"p{i // 2}"}) for i in range(8)]
    loose = [replace(pair, info={}) for pair in twice]
    grouped, naive = (
        evaluate(Oracle(pairs, lambda s: s**2 + 0.1), some, training_mean=None, simulated=False)
        for some in (twice, loose)
    )
    assert (grouped.groups, naive.groups) == (4, 8)
    assert grouped.image.generated.mean == naive.image.generated.mean
    widths = [one.image.generated.high - one.image.generated.low for one in (grouped, naive)]
    assert widths[0] > widths[1]


def test_shuffled_takes_another_patient(pairs):
    """Two frames of each patient follow each other: the map of the other one would be no floor."""
    alike = [replace(pairs[i // 2], info={"group": f"p{i // 2}"}) for i in range(8)]
    report = evaluate(Oracle(pairs), alike, training_mean=None, simulated=False)
    assert report.image.shuffled.greatest < 0.95


def test_repeat_scan_belongs_to_the_pair(pairs):
    strain = pairs[0].strain
    np.testing.assert_array_equal(repeat_scan(strain), repeat_scan(strain.copy()))
    assert np.abs(repeat_scan(strain, 3) - repeat_scan(strain, 4)).max() > 0.05


def test_kinds_are_told_apart(pairs):
    contradicting = [
        replace(pair, info={"kind": "a" if i < 4 else "b", "stiffness_kind": "a"})
        for i, pair in enumerate(pairs)
    ]
    report = evaluate(Oracle(pairs), contradicting, training_mean=None, simulated=True)
    assert set(report.by_kind) == {"a", "b", "look and stiffness agree", "look contradicts stiffness"}
    assert report.by_kind["a"]["ncc"].generated.n == 4


def test_measured_strain_without_masks_or_scale_is_scored_too(pairs, tmp_path):
    bare = [Pair(pair.bmode, pair.strain, None, 0.0, {}) for pair in pairs]
    report = evaluate(Oracle(pairs), bare, training_mean=None, simulated=False)
    assert report.lesion_box is None
    assert {"ncc", "ssim", "mae"} < set(report.measures)
    assert not {"ncc_lesion_box", "contrast_sign", "tsukuba_exact"} & set(report.measures)
    assert (report.tsukuba, report.by_kind, report.strain_ratio.compared) == ({}, {}, 0)
    assert report.strain_ratio.typical_factor is None
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["lesion_box"] is None
    write_examples(tmp_path / "sheet.png", Oracle(pairs), bare, report, PALETTE)
    assert "measured" in table_of(report).title
    alike = score(Oracle(pairs), bare)
    assert set(compare_scores(alike, alike).measures) == set(report.measures)


@dataclass(frozen=True, eq=False)
class Confident(Elastogram):
    """An elastogram that expects an NCC with the truth."""

    confidence: float | None = None


class Sure(Oracle):
    """Errs more and more from pair to pair, and expects to."""

    def predict(self, frames: Sequence[np.ndarray]) -> list[Elastogram]:
        made = super().predict(frames)
        order = [list(self.answers).index(frame.tobytes()) for frame in frames]
        rng = np.random.default_rng(0)
        results: list[Elastogram] = []
        for one, place in zip(made, order, strict=True):
            noise = rng.normal(0, 0.03 * place + 1e-3, one.strain.shape).astype(np.float32)
            strain, spread = one.strain + noise, np.abs(noise)
            results.append(Confident(strain, one.colour, 0.0, spread, confidence=1 - 0.1 * place))
        return results


def test_a_model_that_knows_which_frames_it_errs_on_is_told_so(pairs):
    report = evaluate(Sure(pairs), pairs, training_mean=None, simulated=True)
    assert report.confidence.confidence_spearman.value > 0.9
    assert report.confidence.image_spearman.value > 0.95
    assert report.confidence.ncc_by_confidence[0] == pytest.approx(report.image.generated.mean, abs=1e-3)
    assert report.confidence.ncc_by_confidence[-1] > 0.99
    assert report.per_pair[3]["confidence"] == pytest.approx(0.7)


class Unsure(Oracle):
    """Errs by a known amount and says so."""

    def predict(self, frames: Sequence[np.ndarray]) -> list[Elastogram]:
        made = super().predict(frames)
        wrong = [np.clip(one.strain + np.linspace(0, 0.3, one.strain.shape[1]), 0, 1) for one in made]
        return [
            replace(one, strain=strain.astype(np.float32), spread=np.abs(strain - one.strain) + 1e-3)
            for one, strain in zip(made, wrong, strict=True)
        ]


def test_a_model_that_knows_where_it_errs_is_told_so(pairs, perfect):
    assert perfect.confidence is None
    report = evaluate(Unsure(pairs), pairs, training_mean=None, simulated=True)
    assert report.confidence.pixel_spearman.mean > 0.99
    assert report.confidence.sparsification_gain > 0.99
    assert report.confidence.coverage["90%"] == 1.0
    assert report.confidence.confidence_spearman is None


def test_the_report_is_json_without_patients(pairs):
    telling = [replace(pair, info={**pair.info, "patient": "DOE^JANE"}) for pair in pairs]
    report = evaluate(Oracle(pairs), telling, training_mean=None, simulated=True)
    text = json.dumps(report.to_json(), allow_nan=False)
    assert "DOE" not in text
    read = json.loads(text)
    assert (read["format"], read["version"], read["synthetic"]) == ("emode-evaluation", 1, True)
    assert "Not validated on patients" in read["warning"]
    assert set(read["measures"]["mae"]) == {
        "generated", "mean_map", "shuffled", "repeat_scan", "above_mean_map", "share_of_way",
        "label", "better", "range",
    }  # fmt: skip
    assert read["image"]["generated"]["mean"] == 1.0
    assert len(read["per_pair"]) == 8


class Watched:
    """A list of pairs, read anew each time, that counts how many are alive."""

    def __init__(self, pairs: Sequence[Pair], times: int) -> None:
        self.pairs, self.times = pairs, times
        self.alive: list[weakref.ref[Pair]] = []
        self.most = 0

    def __len__(self) -> int:
        return len(self.pairs) * self.times

    def __getitem__(self, index: int, /) -> Pair:
        pair = replace(self.pairs[index % len(self.pairs)])
        self.alive = [one for one in self.alive if one() is not None] + [weakref.ref(pair)]
        self.most = max(self.most, len(self.alive))
        return pair


def test_a_large_set_does_not_stay_in_memory(pairs):
    tiny = [coarser(pair, 4) for pair in pairs]
    watched = Watched(tiny, 10)
    gc.disable()  # what goes must go by itself
    try:
        report = evaluate(Oracle(tiny), watched, training_mean=None, simulated=True)
    finally:
        gc.enable()
    assert report.pairs == 80
    assert watched.most <= BATCH + 2


def test_several_folders_are_read_one_after_the_other(pairs, tmp_path):
    for name, chosen, simulated in (("a", pairs[:2], True), ("b", pairs[2:5], False)):
        folder = open_or_create(tmp_path / name, Maker("test", 1, simulated))
        for i, pair in enumerate(chosen):
            write_pair(pair_path(folder.root, i), pair)
    both = open_pairs([tmp_path / "a", tmp_path / "b"])
    assert len(both) == 5
    assert both.simulated
    for i in range(5):
        np.testing.assert_array_equal(both[i].bmode, pairs[i].bmode)
    assert not FolderPairs([open_folder(tmp_path / "b")]).simulated
    open_or_create(tmp_path / "empty", Maker("test", 1, True))
    with pytest.raises(TooFewPairs, match="empty hold no pairs"):
        open_pairs([tmp_path / "empty"])


def test_pictures_show_best_median_and_worst(pairs, tmp_path):
    blurred = Oracle(pairs, lambda s: cv2.GaussianBlur(s, (0, 0), 12))
    report = evaluate(blurred, pairs, training_mean=None, simulated=True)
    chosen = best_median_worst(report)
    values = report.scores.values["ncc_lesion_box"]
    assert values[chosen["best"]] == np.nanmax(values)
    assert values[chosen["worst"]] == np.nanmin(values)
    sheet = tmp_path / "new" / "sheet.png"
    write_examples(sheet, blurred, pairs, report, PALETTE)
    picture = cv2.cvtColor(cv2.imread(str(sheet)), cv2.COLOR_BGR2RGB)
    assert picture.shape[0] > 3 * 300
    # Panels hold the colours of true strain: some of the picture is an overlay that can be undone.
    chroma = picture.astype(int).max(axis=2) - picture.astype(int).min(axis=2)
    found = invert(picture[chroma > 60], get_colormap("emode-rainbow", 1), 0.5)
    assert found.size > 50_000
    assert found.std() > 0.05


def test_the_better_of_two_models_is_found(pairs):
    rng = np.random.default_rng(0)

    def noisy(strain: np.ndarray) -> np.ndarray:
        return np.clip(strain + rng.normal(0, 0.1, strain.shape), 0, 1).astype(np.float32)

    good, bad = (score(Oracle(pairs, told), pairs) for told in (lambda s: s, noisy))
    found = compare_scores(good, bad)
    for key in ("ncc", "ssim", "mae", "psnr", "gradient_similarity"):
        one = found.measures[key]
        assert one.better_by.low > 0, key
        assert one.sign_flip_p == pytest.approx(
            2 / 2**8, abs=1e-4
        )  # eight of eight: the least that is possible
        assert one.wilcoxon_p == pytest.approx(2 / 2**8, abs=1e-4)
        assert one.sign_flip_holm == pytest.approx(min(1, one.sign_flip_p * len(found.measures)), rel=0.5)
    backwards = compare_scores(bad, good)
    assert backwards.measures["mae"].better_by.mean == -found.measures["mae"].better_by.mean
    same = compare_scores(good, good)
    assert all(one.sign_flip_holm == one.wilcoxon_holm == 1.0 for one in same.measures.values())
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["format"] == "emode-comparison"
    assert written["measures"]["ncc"]["label"] == MEASURES["ncc"].label


def test_only_the_same_pairs_are_compared(pairs):
    one, other = (score(Oracle(pairs), some) for some in (pairs[:5], pairs[3:]))
    with pytest.raises(ScoresDiffer):
        compare_scores(one, other)
    evaluated = evaluate(Oracle(pairs), pairs[:5], training_mean=None, simulated=True)
    assert compare_scores(one, evaluated.scores).pairs == 5
    two = score(Oracle(pairs), pairs[:2])
    with pytest.raises(TooFewPairs, match="2 groups"):
        compare_scores(two, two)
