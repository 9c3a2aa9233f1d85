"""Scoring on stills with masks: drawn lesions, and models that answer as they are told."""

import csv
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from model.bundle import DEFAULT_BUNDLE
from model.generator import GeneratorSpec
from model.inference import Elastogram
from training.cli.evaluate import evaluate_masks
from training.cli.main import app
from training.errors import ArgumentsInvalid, TooFewStills
from training.pairs.split import side_of
from training.pairs.stills import Label, Still, read_index, read_still
from training.scoring.measures import Palette
from training.scoring.pictures import softest_median_hardest
from training.scoring.stills import score_stills

PALETTE = Palette.of(GeneratorSpec())
SHAPE = (96, 128)


def still(number: int, label: Label, group: str | None = None, radius: int = 14, dark: int = 50) -> Still:
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = np.hypot(y - rng.integers(40, 56), x - rng.integers(50, 78)) <= radius
    frame = np.clip(np.where(mask, dark, 120) + rng.normal(0, 12, SHAPE), 0, 255).astype(np.uint8)
    return Still(
        frame, None if label == "normal" else mask, label, group or f"g{number}", f"{label}-{number}"
    )


STILLS = [
    *(still(i, "benign", dark=60) for i in range(8)),
    *(still(10 + i, "malignant", dark=40 + 5 * i) for i in range(7)),
    *(still(20 + i, "normal") for i in range(2)),
]


class Told:
    """Draws each lesion as a function of its still says: the factor of strain inside it."""

    def __init__(self, stills: Sequence[Still], factor: Callable[[Still], float]) -> None:
        self.stills = {one.frame.tobytes(): one for one in stills}
        self.factor = factor
        self.asked = 0

    def predict(self, frames: Sequence[np.ndarray]) -> list[Elastogram]:
        self.asked += len(frames)
        made = []
        for frame in frames:
            one = self.stills[frame.tobytes()]
            strain = np.full(frame.shape, 0.6, np.float32)
            if one.mask is not None:
                strain[one.mask] *= self.factor(one)
            made.append(Elastogram(strain, PALETTE.paint(strain, frame), 0.01))
        return made


def scored(factor: Callable[[Still], float], stills: Sequence[Still] = STILLS):
    return score_stills(Told(stills, factor), lambda: stills, training_mean=None)


def test_a_model_that_draws_malignant_lesions_harder_is_told_so():
    report = scored(lambda one: 0.2 if one.label == "malignant" else 0.7)
    assert (report.stills, report.lesions, report.groups) == (17, 15, 15)
    assert report.labels == {"benign": 8, "malignant": 7}
    assert report.harder["generated"]["all"].ring.value == 1.0
    assert report.harder["generated"]["all"].reference.value == 1.0
    # Wilson, 15 of 15: 1 / (1 + 1.96^2 / 15).
    assert report.harder["generated"]["all"].ring.low == pytest.approx(1 / (1 + 1.959964**2 / 15), abs=1e-4)
    own = report.auc["strain_ratio"]["generated"]
    assert own.auc.value == 1.0
    assert (own.auc.positives, own.auc.negatives) == (7, 8)
    assert report.auc["tsukuba"]["generated"].auc.value == 1.0
    assert report.distributions["malignant"]["strain_ratio"].mean == pytest.approx(5.0, abs=1e-3)
    assert report.distributions["benign"]["strain_ratio"].mean == pytest.approx(1 / 0.7, abs=1e-3)
    assert {row["tsukuba"] for row in report.rows if row["label"] == "malignant"} == {4}


def test_a_model_that_draws_all_alike_says_nothing_about_malignancy():
    report = scored(lambda one: 0.5)
    assert report.auc["strain_ratio"]["generated"].auc.value == pytest.approx(0.5, abs=0.01)
    assert report.harder["generated"]["malignant"].ring.value == 1.0


def test_soft_lesions_are_counted_as_wrong():
    report = scored(lambda one: 1.5 if one.name in ("benign-0", "benign-1", "malignant-10") else 0.5)
    rates = report.harder["generated"]
    assert rates["benign"].ring.value == pytest.approx(6 / 8)
    assert rates["malignant"].ring.value == pytest.approx(6 / 7, abs=1e-4)
    assert rates["all"].ring.value == pytest.approx(12 / 15)
    assert rates["all"].ring_groups.mean == pytest.approx(12 / 15)


def test_floors_answer_without_the_model():
    """Dark lesions are "hard" by brightness, and the darker label is told by it, whatever the model draws."""
    stills = [replace(one, frame=one.frame) for one in STILLS[:8]]
    stills += [still(30 + i, "malignant", dark=20) for i in range(6)]
    one_way, other = scored(lambda one: 0.3, stills), scored(lambda one: 1.4, stills)
    for report in (one_way, other):
        assert report.harder["brightness"]["all"].ring.value == 1.0
        assert report.auc["strain_ratio"]["brightness"].auc.value == 1.0
        assert report.auc["strain_ratio"]["generated"].above["brightness"].value < 0
    # The mean of what was generated has its lesion in the middle, as they all have.
    assert one_way.harder["mean_map"]["all"].ring.value > 0.5
    assert other.harder["mean_map"]["all"].ring.value < 0.5


def test_a_training_mean_is_the_floor_where_it_is_given():
    flat = np.full((64, 64), 0.5, np.float32)
    predictor = Told(STILLS, lambda one: 0.4)
    report = score_stills(predictor, lambda: STILLS, training_mean=flat)
    assert report.mean_map_from == "the training set"
    assert report.harder["mean_map"]["all"].ring.value == 0.0
    assert report.auc["strain_ratio"]["mean_map"].auc.value == 0.5
    assert predictor.asked == len(STILLS)


def test_near_duplicates_do_not_narrow_the_interval():
    copies = [replace(one, name=f"{one.name}-{k}") for one in STILLS[:15] for k in range(4)]
    factors = {one.group: 0.3 + 0.05 * (i * 7 % 11) for i, one in enumerate(STILLS)}
    report = scored(lambda one: factors[one.group], copies)
    auc = report.auc["strain_ratio"]["generated"].auc
    assert report.groups == 15
    assert auc.groups.high - auc.groups.low > 1.5 * (auc.high - auc.low)


def test_too_few_lesions_and_one_label():
    with pytest.raises(TooFewStills, match="2 groups among 4 stills"):
        scored(lambda one: 0.5, [*STILLS[:2], *STILLS[-2:]])
    only_benign = scored(lambda one: 0.5, STILLS[:8])
    assert only_benign.auc == {}
    assert only_benign.harder["generated"]["benign"].ring.value == 1.0


def test_stills_are_read_one_at_a_time():
    read: list[weakref.ref[Still]] = []
    most = 0

    def stills() -> Iterator[Still]:
        nonlocal most
        for one in STILLS * 3:
            fresh = replace(one)
            read.append(weakref.ref(fresh))
            most = max(most, sum(ref() is not None for ref in read))
            yield fresh

    score_stills(Told(STILLS, lambda one: 0.5), stills, training_mean=None)
    assert len(read) == 2 * 3 * len(STILLS)
    assert most <= 4  # the last of each reading, whatever their number


def test_examples_are_the_ends_and_the_middle():
    report = scored(lambda one: 0.3 + 0.02 * int(one.name.split("-")[1]))
    names = list(softest_median_hardest(report))
    assert names == [
        "benign-7", "benign-3", "benign-0", "malignant-16", "malignant-13", "malignant-10",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The stills as files, each group's name chosen so that it falls on the validation side."""
    root = tmp_path_factory.mktemp("stills")
    names = (f"name {i}" for i in range(1000))
    validation = (name for name in names if side_of(name) == "validation")
    with (root / "index.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "label", "near_duplicate_group", "masks"])
        for i, one in enumerate(STILLS):
            cv2.imwrite(str(root / f"{i}.png"), one.frame)
            mask = np.zeros(SHAPE, np.uint8) if one.mask is None else one.mask.astype(np.uint8) * 255
            cv2.imwrite(str(root / f"{i}_mask.png"), mask)
            lines.writerow([f"{i}.png", one.label, next(validation), f"{i}_mask.png"])
        cv2.imwrite(str(root / "training.png"), STILLS[0].frame)
        other = next(name for name in (f"other {i}" for i in range(99)) if side_of(name) == "training")
        lines.writerow(["training.png", "normal", other, ""])
    return root


def test_the_command_scores_the_validation_side(folder, tmp_path):
    arguments = ["evaluate", "--bundle", str(DEFAULT_BUNDLE), "--masks", str(folder), "--threads", "1"]
    out = ["--json", str(tmp_path / "stills.json"), "--pictures", str(tmp_path)]
    done = CliRunner().invoke(app, [*arguments, *out], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    for words in ("15 lesions (8 benign, 7 malignant), 15 groups", "malignant", "strain ratio", "dark"):
        assert words in done.stdout
    report = json.loads((tmp_path / "stills.json").read_text())
    assert (report["format"], report["synthetic"], report["side"]) == ("emode-stills", True, "validation")
    assert (report["stills"], report["skipped"]) == (17, 0)
    assert "expected" not in report["harder"]
    assert report["harder"]["brightness"]["all"]["ring"]["value"] == 1.0
    assert (tmp_path / "softest-to-hardest.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_draws_a_ceiling_where_it_is_asked_to(folder, tmp_path):
    arguments = ["evaluate", "--bundle", str(DEFAULT_BUNDLE), "--masks", str(folder), "--threads", "1"]
    out = ["--draws", "2", "--json", str(tmp_path / "stills.json")]
    done = CliRunner().invoke(app, [*arguments, *out], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    assert "expected" in done.stdout
    assert done.stdout.count("ceiling") == 2
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    report = json.loads((tmp_path / "stills.json").read_text())
    ceiling = report["auc"]["strain_ratio"]["expected"]
    # Two draws of seven malignant lesions, mostly hard, and of eight benign ones, mostly not.
    assert ceiling["auc"]["value"] > 0.6
    assert ceiling["above"] == {}
    assert report["harder"]["expected"]["malignant"]["ring"]["value"] > 0.7


def test_the_training_side_is_another_one(folder):
    with pytest.raises(TooFewStills, match="0 groups among 1 stills"):
        evaluate_masks(Told(STILLS, lambda one: 0.5), folder, "training", None, None, None)


def test_pairs_or_stills_but_not_both(folder):
    arguments = ["evaluate", "--bundle", str(DEFAULT_BUNDLE), "--masks", str(folder), "--data", str(folder)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ArgumentsInvalid)
    assert "--data and --masks exclude each other" in str(done.exception)


@pytest.mark.real_data
def test_real_lesions_are_dark_and_that_alone_does_not_tell_malignant_ones(real_data):
    """What any model has to beat, on sixty real stills: the regions fit real masks of unknown scale."""
    entries = [one for one in read_index(real_data / "busi") if one.label != "normal"][::9]
    stills = [one for entry in entries if isinstance(one := read_still(entry), Still)]
    report = scored(lambda one: 0.5, stills)
    assert report.lesions > 50
    assert report.harder["generated"]["all"].ring.value == 1.0
    assert report.harder["brightness"]["all"].ring.value > 0.9
    assert report.auc["strain_ratio"]["brightness"].auc.value < 0.7
