"""Training: it learns, it resumes, and what it exports is what it trained."""

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dicom_node.demo.child import free_ports
from model.bundle import read_bundle, write_bundle
from model.predict import Predictor
from training.bundling.card import render_card
from training.bundling.export import build_bundle, inference_of, shipped_weights
from training.config import CONFIGS, PhaseConfig, TrainingConfig, read_config
from training.errors import CheckpointInvalid, ConfigInvalid, TooFewPairs
from training.fitting.checkpoint import load_checkpoint
from training.fitting.discriminator import crop
from training.fitting.disturbance import Disturbance
from training.fitting.fit import ALONE, fit
from training.fitting.journal import LOG
from training.fitting.lesion_reader import reading_loss
from training.fitting.losses import ncc, soft_inversion, strain_ratio, weighted_l1
from training.fitting.schedule import Schedule
from training.fitting.step import Trainer
from training.pairs.augment import flip, look, zoom
from training.pairs.folder import write_header, write_pair
from training.pairs.generate import pair_path
from training.pairs.pair import Pair
from training.pairs.samples import (
    UNKNOWN_LOOK,
    Batch,
    Samples,
    box_area,
    lesion_boxes,
    load_all,
    step_rng,
    take,
)
from training.scoring.evaluate import evaluate
from training.simulator.simulate import SIMULATOR, TRAINING_SEEDS, simulate_pair

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "name": "test",
    "version": "0.0.1",
    "seed": 1,
    "phases": [
        {"epochs": 1, "batch_size": 2, "shrink": 2, "adversarial": False},
        {"epochs": 1, "batch_size": 2, "adversarial": True},
    ],
    "learning_rate": 2e-3,
    "discriminator_learning_rate": 2e-4,
    "ema_decay": 0.9,
    "judges": {"features": 8, "scales": 2, "r1_every": 2},
    "generator": {
        "channels": [8, 16, 16],
        "dim": 32,
        "layers": 1,
        "heads": 2,
        "unshuffle": 2,
        "uncertainty": True,
    },
    "losses": {
        "lesion_ncc": 1.0,
        "strain_ratio": 1.0,
        "lesion_look": 1.0,
        "inversion": 1.0,
        "feature_matching": 1.0,
    },
    "preprocess": {"height": 64, "width": 96},
    "simulation": {"training_pairs": 4, "validation_pairs": 1, "test_pairs": 1},
}
CONFIG = TrainingConfig.model_validate(SETTINGS)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [simulate_pair(seed) for seed in TRAINING_SEEDS[990_000:990_006]]


@pytest.fixture(scope="module")
def samples(pairs, tmp_path_factory) -> Samples:
    root = tmp_path_factory.mktemp("pairs")
    write_header(root, SIMULATOR)
    for i, pair in enumerate(pairs):
        write_pair(pair_path(root, i), pair)
    return load_all(sorted(root.glob("pair-*.npz")), CONFIG.preprocess_spec())


def test_overfits_four_pairs(samples):
    """Given the same four pairs again and again, the network learns them."""
    trainer = Trainer(CONFIG.model_copy(update={"learning_rate": 3e-3}), ALONE)
    at = Schedule([PhaseConfig(epochs=1, batch_size=1, adversarial=False)], 4).at(0)
    batch = take(samples, torch.arange(4))
    first = trainer.train_on(batch, at, step_rng(0, 0, 0))
    for _ in range(119):
        last = trainer.train_on(batch, at, step_rng(0, 0, 0))
    assert last["ncc"] < 0.2 < first["ncc"]
    assert last["strain_l1"] < 0.5 * first["strain_l1"]
    # What it expects of its own error has come near the error.
    with torch.no_grad():
        made = trainer.generator(batch.bmode)
    inside = batch.covered > 0
    error = (made.strain - batch.strain).abs()[inside].mean()
    assert 0.3 < float(made.spread[inside].mean() / error) < 3


def test_resumed_run_equals_uninterrupted(samples, tmp_path):
    """Stopped in the middle of an epoch, before and after the discriminators join."""
    whole = fit(CONFIG, samples, samples, tmp_path / "whole")
    for stop in (1, 4, None):
        pieces = fit(CONFIG, samples, samples, tmp_path / "pieces", stop_after=stop)
    assert whole.step == pieces.step == 6
    for name in ("generator", "ema", "judges", "reader"):
        one, other = getattr(whole, name).state_dict(), getattr(pieces, name).state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one)
    texts = [(tmp_path / run / LOG).read_text() for run in ("whole", "pieces")]
    logs = [list(csv.DictReader(text.splitlines())) for text in texts]
    for rows in logs:
        for row in rows:
            row.pop("seconds")
    assert logs[0] == logs[1]
    assert [row["epoch"] for row in logs[0]] == ["0", "1"]
    assert logs[0][0]["discriminator"] == ""
    assert float(logs[0][1]["discriminator"]) > 0
    assert len(list((tmp_path / "pieces" / "samples").glob("*.png"))) == 2
    events = EventAccumulator(str(tmp_path / "pieces" / "events")).Reload()
    scores = {event.step: event.value for event in events.Scalars("epoch/validation_ncc")}
    for row in logs[1]:
        assert scores[int(row["step"])] == pytest.approx(float(row["validation_ncc"]), rel=1e-3)


def test_run_of_another_configuration_is_not_continued(samples, tmp_path):
    fit(CONFIG, samples, samples, tmp_path, stop_after=1)
    with pytest.raises(CheckpointInvalid, match="another configuration"):
        fit(CONFIG.model_copy(update={"seed": 2}), samples, samples, tmp_path)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(CheckpointInvalid, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_export_is_what_was_trained(samples, pairs, tmp_path):
    trainer = fit(CONFIG, samples, samples, tmp_path / "run", stop_after=4)
    config, _, weights = shipped_weights(tmp_path / "run")
    report = evaluate(inference_of(config, weights), pairs, training_mean=None, simulated=True)
    metrics = {key: value for key, value in report.to_json().items() if key != "per_pair"}
    bundle = build_bundle(tmp_path / "run", metrics=metrics, created_at=datetime(2024, 6, 3, tzinfo=UTC))
    write_bundle(bundle, tmp_path / "bundle")
    read = read_bundle(tmp_path / "bundle")
    frame = pairs[0].bmode
    loaded = Predictor(read, device="cpu", precision="fp32").predict([frame])[0]
    direct = inference_of(config, weights).predict([frame])[0]
    np.testing.assert_array_equal(loaded.strain, direct.strain)
    np.testing.assert_array_equal(loaded.colour, direct.colour)
    # Against the average in float32 only the rounding to float16 remains.
    exact = inference_of(config, dict(trainer.ema.state_dict())).predict([frame])[0]
    assert np.abs(exact.strain - loaded.strain).max() < 5e-3
    assert read.training["simulated"] is True
    assert read.training["seed"] == CONFIG.seed
    for words in (
        "Not validated on patients",
        "Research use only",
        "mean training map",
        "emode-train evaluate",
    ):
        assert words in read.card
    assert read.card == render_card(CONFIG, dict(read.training), dict(read.metrics))


def parts(batch: Batch) -> list[torch.Tensor]:
    return [batch.bmode, batch.strain, batch.lesion, batch.covered]


def test_flip_takes_the_pair_together(samples):
    plain = take(samples, torch.arange(4))
    for step in range(6):
        drawn = flip(plain, step_rng(0, 0, step))
        for i in range(4):
            mirrored = not torch.equal(drawn.strain[i], plain.strain[i])
            for one, other in zip(parts(drawn), parts(plain), strict=True):
                assert torch.equal(one[i], other[i].flip(-1) if mirrored else other[i])


def test_zoom_keeps_the_pair_aligned_and_strain_relative():
    """A disc is in B-mode and in strain: wherever it lands, it lands in both."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    disc = ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.2).float().expand(8, 1, 96, 96)
    batch = Batch(
        disc * 2 - 1, 0.5 - 0.3 * disc, disc, torch.ones_like(disc), torch.full((len(disc),), UNKNOWN_LOOK)
    )
    moved = zoom(batch, step_rng(3, 0, 0))
    assert any(not torch.equal(one, other) for one, other in zip(moved.bmode, disc * 2 - 1, strict=True))
    for i in range(8):
        inside = moved.covered[i] > 0
        agreement = ncc((moved.bmode[i : i + 1] + 1), -moved.strain[i : i + 1], inside.float().unsqueeze(0))
        assert float(agreement[0]) > 0.99
        assert float(moved.strain[i][inside].median()) == pytest.approx(0.5, abs=0.01)
        assert float(moved.bmode[i][~inside].max() if bool((~inside).any()) else -1.0) == -1.0


def test_look_leaves_strain_and_padding_alone(samples):
    plain = take(samples, torch.arange(4))
    drawn = look(plain, step_rng(0, 0, 1))
    assert torch.equal(drawn.strain, plain.strain)
    assert not torch.equal(drawn.bmode, plain.bmode)
    assert torch.all(drawn.bmode[drawn.covered == 0] == -1)


def test_shrunk_batch_is_the_mean_of_the_whole(samples):
    whole, half = take(samples, torch.arange(2)), take(samples, torch.arange(2), 2)
    assert half.bmode.shape[2:] == (32, 48)
    assert float(half.strain.mean()) == pytest.approx(float(whole.strain.mean()), abs=1e-4)
    assert set(half.lesion.unique().tolist()) <= {0.0, 1.0}


def test_lesion_box_is_where_the_lesion_is():
    lesion = torch.zeros(2, 1, 40, 80)
    lesion[0, 0, 10:20, 40:60] = 1
    boxes = lesion_boxes(lesion)
    # Rows 10 to 20 of 40 are -0.5 to 0, columns 40 to 60 of 80 are 0 to 0.5; a fifth wider on each side.
    torch.testing.assert_close(boxes, torch.tensor([[0.25, -0.25, 0.35, 0.35], [0.0, 0.0, 0.0, 0.0]]))
    area = box_area(boxes, torch.ones_like(lesion))
    assert area[1].sum() == 0
    assert area[0, 0, 8:22, 36:64].all()
    assert area[0].sum() == 14 * 28
    cut = crop(lesion[:1], boxes[:1])
    assert float(cut.mean()) == pytest.approx(1 / 1.4**2, rel=0.05)
    assert float(cut[0, 0, 32, 32]) == 1.0


def test_disturbance_is_the_same_for_every_picture():
    picture = torch.rand(3, 1, 32, 48)
    disturb = Disturbance((3, 32, 48), step_rng(0, 0, 0), torch.device("cpu"))
    both = disturb(torch.cat([picture, 2 * picture], dim=1))
    assert torch.equal(both[:, 1], 2 * both[:, 0])
    assert 0.05 < float((both[:, 0] == 0).float().mean()) < 0.6
    assert not torch.equal(both[:, :1], picture)


def test_colour_read_back_is_the_strain(samples):
    batch = take(samples, torch.arange(2))
    generator = Trainer(CONFIG, ALONE).generator
    colour = generator.blend(batch.strain, (batch.bmode + 1) / 2)
    back = soft_inversion(colour, generator.table, generator.spec.alpha)
    assert float((back - batch.strain).abs()[batch.covered > 0].mean()) < 0.01


def test_schedule_counts_every_pair_once_and_ramps():
    coarse = PhaseConfig(epochs=2, batch_size=3, shrink=2, adversarial=False)
    fine = PhaseConfig(epochs=2, batch_size=2, share=0.5)
    schedule = Schedule([coarse, fine], 41)
    assert schedule.total == 2 * 13 + 2 * 10
    places = [schedule.at(step) for step in range(schedule.total)]
    assert [p.epoch for p in places] == [0] * 13 + [1] * 13 + [2] * 10 + [3] * 10
    assert [p.index for p in places[24:28]] == [11, 12, 0, 1]
    assert [i for i, p in enumerate(places) if p.last_of_epoch] == [12, 25, 35, 45]
    assert all(p.ramp == 0 for p in places[:26])
    assert [p.ramp for p in places[26:29]] == [0.0, 0.5, 1.0]
    progress = [p.progress for p in places]
    assert progress == sorted(progress)
    assert 0 == progress[0] < progress[-1] < 1


def test_start_takes_over_weights_and_refuses_others(samples, tmp_path):
    weights = Trainer(CONFIG.model_copy(update={"seed": 9}), ALONE).generator.state_dict()
    started = fit(CONFIG, samples, samples, tmp_path / "run", start=weights, stop_after=0)
    assert all(torch.equal(started.generator.state_dict()[name], weights[name]) for name in weights)
    other = CONFIG.model_copy(update={"generator": CONFIG.generator.model_copy(update={"dim": 16})})
    with pytest.raises(CheckpointInvalid, match="another network"):
        fit(other, samples, samples, tmp_path / "other", start=weights)


def test_two_processes_train_one_network(samples, tmp_path):
    """Started by torchrun, both hold the same weights after each step, and resuming goes on together."""
    torch.save(
        {name: getattr(samples, name) for name in Samples.__dataclass_fields__}, tmp_path / "samples.pt"
    )
    (tmp_path / "config.json").write_text(CONFIG.model_dump_json())
    for stop in ("1", "3"):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
        command += [str(free_ports(1)[0]), str(Path(__file__).parent / "peers" / "two_trainers.py")]
        done = subprocess.run(
            [*command, str(tmp_path), stop], capture_output=True, text=True, timeout=250, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"weights-{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert load_checkpoint(tmp_path / "run")["step"] == 2


def test_losses_count_only_what_is_covered():
    a, b = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    weight = torch.zeros(2, 1, 8, 8)
    weight[..., :4] = 1
    changed = torch.where(weight > 0, b, torch.full_like(b, 9.0))
    assert weighted_l1(a, b, weight) == weighted_l1(a, changed, weight)
    torch.testing.assert_close(ncc(a, b, weight), ncc(a, changed, weight))
    torch.testing.assert_close(ncc(a, 3 * a + 1, weight), torch.ones(2))
    inside = [x[0, 0, :, :4].flatten().numpy() for x in (a, b)]
    assert float(ncc(a, b, weight)[0]) == pytest.approx(np.corrcoef(*inside)[0, 1], abs=1e-4)


def test_strain_ratio_is_of_the_lesion_and_what_lies_around_it():
    lesion, covered = torch.zeros(3, 1, 64, 96), torch.ones(3, 1, 64, 96)
    lesion[0, :, 20:40, 30:60], lesion[1] = 1, 1  # the second fills the picture, the third has none
    b = torch.full((3, 1, 64, 96), 0.5)
    a = torch.where(lesion > 0, 0.24, b)
    twice = math.log(0.52 / 0.26) ** 2
    assert float(strain_ratio(a, b, lesion, covered)) == pytest.approx(twice, rel=1e-4)
    assert float(strain_ratio(b, b, lesion, covered)) == 0.0
    # Deeper tissue is no reference, and padding is no tissue.
    elsewhere = a.clone()
    elsewhere[:, :, 50:] = 1.0
    covered[0, :, :, 90:] = 0
    elsewhere[0, :, :, 90:] = 0.0
    assert float(strain_ratio(elsewhere, b, lesion, covered)) == pytest.approx(twice, rel=1e-4)
    assert float(strain_ratio(a[1:], b[1:], lesion[1:], covered[1:])) == 0.0


def test_lesions_are_read_only_where_somebody_said_what_they_are(samples):
    batch = take(samples, torch.arange(2))
    lesion = torch.zeros_like(batch.lesion)
    lesion[:, :, 16:48, 32:64] = 1
    known = replace(
        batch, lesion=lesion, covered=torch.ones_like(lesion), suspicion=torch.tensor([1.0, -1.0])
    )
    right = torch.cat([lesion * 20 - 10, torch.full_like(lesion, 10.0)], dim=1)[:, :, ::2, ::2]
    assert float(reading_loss(right, known)) < 0.001
    wrong_look = right * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    assert float(reading_loss(wrong_look, known)) == pytest.approx(10.0, abs=0.01)
    # What is said of the second picture, of which nothing is known, costs nothing.
    second = torch.stack([right[0], -right[1]])
    assert float(reading_loss(second, known)) == float(reading_loss(right, known))
    nothing = replace(known, suspicion=torch.tensor([-1.0, -1.0]))
    assert float(reading_loss(-right, nothing)) == 0.0


def test_looks_are_taken_from_what_the_pair_says(pairs, tmp_path):
    kinds = {"malignant": 1.0, "cyst": 0.0, "none": 0.0, "isoechoic": 0.5, "unheard of": -1.0}
    for i, kind in enumerate([*kinds, None]):
        info = {} if kind is None else {"kind": kind}
        write_pair(pair_path(tmp_path, i), replace(pairs[0], info=info))
    read = load_all(sorted(tmp_path.glob("pair-*.npz")), CONFIG.preprocess_spec())
    assert read.suspicion.tolist() == [*kinds.values(), UNKNOWN_LOOK]


def test_too_few_pairs(samples, tmp_path):
    phases = (PhaseConfig(epochs=1, batch_size=7),)
    with pytest.raises(TooFewPairs, match="100% of 6 pairs for training in batches of 7"):
        fit(CONFIG.model_copy(update={"phases": phases}), samples, samples, tmp_path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path):
    assert read_config(path).generator_spec().colormap == "emode-rainbow"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: 0\ncolour: 1", "colour: Extra inputs"),
        (
            json.dumps({**SETTINGS, "preprocess": {"height": 64, "width": 80}}),
            "80 shrunk by 2 is no multiple",
        ),
        ("a: [", "is not YAML"),
        ("[]", "valid dictionary"),
    ],
)
def test_wrong_configuration_is_named(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigInvalid, match=words):
        read_config(tmp_path / "c.yaml")
