"""Training: it learns, it resumes, and what it exports is what it trained."""

import csv
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from model.bundle import read_bundle, write_bundle
from model.predict import Predictor
from training.bundling.card import render_card
from training.bundling.export import build_bundle, inference_of, shipped_weights
from training.config import CONFIGS, TrainingConfig, read_config
from training.errors import CheckpointInvalid, ConfigInvalid, TooFewPairs
from training.fitting.checkpoint import load_checkpoint
from training.fitting.fit import LOG, fit
from training.fitting.losses import ncc, weighted_l1
from training.fitting.step import Trainer
from training.pairs.folder import write_header, write_pair
from training.pairs.generate import pair_path
from training.pairs.pair import Pair
from training.pairs.samples import Samples, draw_batch, load_all, step_rng
from training.scoring.evaluate import evaluate
from training.simulator.simulate import SIMULATOR, TRAINING_SEEDS, simulate_pair

SETTINGS = {
    "name": "test",
    "version": "0.0.1",
    "seed": 1,
    "epochs": 2,
    "warmup_epochs": 1,
    "batch_size": 2,
    "learning_rate": 2e-3,
    "discriminator_learning_rate": 2e-4,
    "ema_decay": 0.9,
    "discriminator_features": 8,
    "generator": {"channels": [8, 8, 16, 16], "dim": 32, "layers": 1, "heads": 2},
    "preprocess": {"height": 64, "width": 80},
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


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_overfits_four_pairs(samples):
    """Given the same four pairs again and again, the network learns them."""
    config = CONFIG.model_copy(update={"epochs": 100, "learning_rate": 3e-3})
    trainer = Trainer(config, total_steps=110, warmup_steps=1000)
    batch = draw_batch(samples, torch.arange(4), None)
    first = trainer.train_on(batch)
    for _ in range(109):
        last = trainer.train_on(batch)
    assert last["ncc"] < 0.2 < first["ncc"]
    assert last["strain_l1"] < 0.5 * first["strain_l1"]


def test_resumed_run_equals_uninterrupted(samples, tmp_path):
    """Stopped in the middle of an epoch, before and after the discriminators join."""
    whole = fit(CONFIG, samples, samples, tmp_path / "whole")
    for stop in (1, 4, None):
        pieces = fit(CONFIG, samples, samples, tmp_path / "pieces", stop_after=stop)
    assert whole.step == pieces.step == 6
    for name in ("generator", "ema", "judges"):
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
    loaded = Predictor(read, device="cpu").predict([frame])[0]
    direct = inference_of(config, weights).predict([frame])[0]
    np.testing.assert_array_equal(loaded.strain, direct.strain)
    np.testing.assert_array_equal(loaded.colour, direct.colour)
    # Against the average in float32 only the rounding to float16 remains.
    exact = inference_of(config, dict(trainer.ema.state_dict())).predict([frame])[0]
    assert np.abs(exact.strain - loaded.strain).max() < 5e-3
    assert read.training["simulated"] is True
    assert read.training["seeds"]["fit"] == CONFIG.seed
    for words in ("Not validated on patients", "Research use only", "mean training map", "emode-train quick"):
        assert words in read.card
    assert read.card == render_card(CONFIG, dict(read.training), dict(read.metrics))


def test_augmentation_flips_the_pair_together(samples):
    plain = draw_batch(samples, torch.arange(4), None)
    for step in range(6):
        drawn = draw_batch(samples, torch.arange(4), step_rng(0, 0, step))
        for i in range(4):
            flipped = not torch.equal(drawn.strain[i], plain.strain[i])
            for part in ("strain", "lesion", "covered"):
                expected = getattr(plain, part)[i]
                assert torch.equal(getattr(drawn, part)[i], expected.flip(-1) if flipped else expected)
            outside = drawn.covered[i] == 0
            assert torch.all(drawn.bmode[i][outside] == -1)


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


def test_too_few_pairs(samples, tmp_path):
    with pytest.raises(TooFewPairs, match="6 for training in batches of 7"):
        fit(CONFIG.model_copy(update={"batch_size": 7}), samples, samples, tmp_path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path):
    assert read_config(path).generator_spec().colormap == "emode-rainbow"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs: 0\ncolour: 1", "colour: Extra inputs"),
        ("a: [", "is not YAML"),
        ("[]", "valid dictionary"),
    ],
)
def test_wrong_configuration_is_named(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigInvalid, match=words):
        read_config(tmp_path / "c.yaml")
