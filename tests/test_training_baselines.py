"""Baselines: the networks they say they are, trained resumably, and compared pair by pair."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from model.colormap import get_colormap, overlay
from model.generator import Generator, GeneratorSpec, count_parameters
from model.preprocess import PreprocessSpec
from training.baselines.pix2pix import Pix2PixGenerator, Pix2PixJudge, halvings_for
from training.baselines.pix2pix_fit import LEARNING_RATE, Painter, Pix2PixTrainer, fit_pix2pix
from training.baselines.predictors import MeanMapPredictor, Pix2PixPredictor
from training.baselines.table import LABELS, Candidate, images_shown, rows, to_json
from training.baselines.variants import VARIANTS, l1_only, without_transformer
from training.cli.baselines import table_of
from training.cli.main import app
from training.config import CONFIGS, TrainingConfig, read_config
from training.errors import CheckpointInvalid, NotFinite
from training.fitting.checkpoint import load_checkpoint
from training.pairs.folder import REFEREE, Maker, write_header, write_pair
from training.pairs.generate import pair_path
from training.pairs.pair import Pair
from training.pairs.provenance import Provenance
from training.pairs.samples import Samples, load_all, step_rng, take
from training.scoring.measures import MEASURES
from training.scoring.report import Scores

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SETTINGS = {
    "name": "test",
    "version": "0.0.1",
    "seed": 1,
    "phases": [
        {"epochs": 1, "batch_size": 2, "shrink": 2, "adversarial": False},
        {"epochs": 2, "batch_size": 4, "share": 0.9, "adversarial": True},
    ],
    "learning_rate": 2e-3,
    "discriminator_learning_rate": 2e-4,
    "ema_decay": 0.9,
    "judges": {"features": 4},
    "generator": {
        "channels": [8, 12, 16], "dim": 32, "layers": 2, "heads": 2, "unshuffle": 2, "uncertainty": True,
    },
    "preprocess": {"height": 32, "width": 32, "min_side": 16},
    "simulation": {"training_pairs": 4, "validation_pairs": 1, "test_pairs": 1},
}  # fmt: skip
CONFIG = TrainingConfig.model_validate(SETTINGS)


def disc(seed: int) -> Pair:
    """A dark disc that is hard, in grey that is not: what is to be learnt is plain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    mask = np.hypot(y - rng.uniform(20, 44), x - rng.uniform(20, 44)) < rng.uniform(8, 14)
    bmode = np.clip(np.where(mask, 60, 150) + rng.normal(0, 12, mask.shape), 0, 255).astype(np.uint8)
    strain = cv2.GaussianBlur(np.where(mask, 0.15, 0.5).astype(np.float32), (0, 0), 2.0)
    return Pair(bmode, strain, mask, 0.5, {"seed": seed})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_header(root, Maker("test", 1, simulated=True))
    for seed in range(5):
        write_pair(pair_path(root, seed), disc(seed))
    return root


@pytest.fixture(scope="module")
def samples(folder) -> Samples:
    return load_all(sorted(folder.glob("pair-*.npz")), CONFIG.preprocess_spec())


# The networks


def test_pix2pix_has_the_published_size():
    """54.41 million and, the judge, 2.77 million: what pix2pix and V-EUS have."""
    with torch.device("meta"):
        assert count_parameters(Pix2PixGenerator()) == 54_412_483
        assert count_parameters(Pix2PixJudge()) == 2_766_657


def test_a_score_of_the_judge_sees_70_pixels():
    judge = Pix2PixJudge(4).eval()
    bmode = torch.zeros((1, 1, 160, 160), requires_grad=True)
    scores = judge(bmode, torch.zeros((1, 3, 160, 160)))
    scores[0, 0, 9, 9].backward()
    assert bmode.grad is not None
    seen = np.flatnonzero(bmode.grad[0, 0].abs().sum(dim=0).numpy())
    assert seen[-1] - seen[0] + 1 == 70


@pytest.mark.parametrize(
    ("size", "halvings"), [((256, 512), 8), ((64, 96), 5), ((1024, 768), 8), ((48, 48), 4)]
)
def test_pix2pix_halves_as_often_as_the_size_allows(size, halvings):
    assert halvings_for(*size) == halvings
    network = Pix2PixGenerator(2, halvings).eval()
    if size[0] < 256:
        made = network(torch.rand((1, 1, *size)) * 2 - 1)
        assert made.shape == (1, 3, *size)
        assert made.abs().max() <= 1


def test_unet_has_as_many_values_and_no_transformer():
    ours = read_config(CONFIGS / "full.yaml")
    theirs = without_transformer(ours)
    with torch.device("meta"):
        a, b = (count_parameters(Generator(one.generator_spec())) for one in (ours, theirs))
    assert b == pytest.approx(a, rel=0.03)
    assert theirs.generator.layers == 0
    assert theirs.model_dump(exclude={"generator"}) == ours.model_dump(exclude={"generator"})


def test_l1_only_leaves_out_everything_but_l1():
    plain = l1_only(CONFIG)
    weighted = {name for name, weight in plain.losses.model_dump().items() if weight}
    assert weighted == {"strain_l1", "colour_l1", "lesion"}
    assert plain.losses.lesion == 1.0
    assert not any(phase.adversarial for phase in plain.phases)
    assert images_shown(plain, 9) == images_shown(CONFIG, 9)
    assert VARIANTS["emode"](CONFIG) == CONFIG


# Its training


def test_painter_paints_what_the_node_shows(samples):
    batch = take(samples, torch.arange(2))
    painted = (Painter(CONFIG.generator_spec(), CPU)(batch)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    bmode = ((batch.bmode[0, 0].numpy() + 1) * 127.5).astype(np.uint8)
    wanted = overlay(batch.strain[0, 0].numpy(), bmode, get_colormap("emode-rainbow", 1), 0.5)
    assert np.abs(painted - wanted).max() <= 1.5


def test_pix2pix_learns_one_pair(samples):
    trainer = Pix2PixTrainer(CONFIG, CPU, features=8)
    batch = take(samples, torch.tensor([0]))
    likeness = [trainer.train_on(batch, 0.0, step_rng(0, 0, i))["l1"] for i in range(90)]
    assert np.mean(likeness[-5:]) < 0.5 * likeness[0]


def test_learning_rate_falls_in_the_second_half(samples):
    trainer = Pix2PixTrainer(CONFIG, CPU, features=2)
    batch = take(samples, torch.tensor([0]))
    for progress, share in ((0.0, 1.0), (0.5, 1.0), (0.75, 0.5), (1.0, 0.0)):
        trainer.train_on(batch, progress, step_rng(0, 0, 0))
        rates = {
            optimiser.param_groups[0]["lr"]
            for optimiser in (trainer.generator_optimiser, trainer.judge_optimiser)
        }
        assert rates == {LEARNING_RATE * share}


def test_pix2pix_that_diverged_stops(samples):
    trainer = Pix2PixTrainer(CONFIG, CPU, features=2)
    nn.init.constant_(trainer.generator.ups[0].weight, torch.nan)
    with pytest.raises(NotFinite, match="pix2pix, step 0"):
        trainer.train_on(take(samples, torch.tensor([0])), 0.0, step_rng(0, 0, 0))


def test_killed_pix2pix_goes_on_to_the_same_result(samples, tmp_path):
    def run(name, config=CONFIG, **more):
        return fit_pix2pix(
            config, samples, tmp_path / name, device=CPU, provenance=Provenance(), features=4, **more
        )  # fmt: skip

    whole = run("whole")
    assert whole.step == 5 + 4 + 4  # as many images as ours: an epoch of all, two of nine tenths
    run("parts", stop_after=6, checkpoint_every=4)
    (tmp_path / "parts").rename(tmp_path / "killed")
    parts = run("killed")
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(parts.generator.state_dict()[name], value), name
    state = load_checkpoint(tmp_path / "killed")
    assert state is not None
    assert state["step"] == whole.step
    with pytest.raises(CheckpointInvalid, match="another configuration"):
        run("killed", CONFIG.model_copy(update={"seed": 2}))


def test_images_shown_counts_what_a_run_takes():
    assert images_shown(CONFIG, 9) == 8 + 2 * 8
    assert images_shown(CONFIG, 5) == 4 + 2 * 4


# As predictors


class Draws(Pix2PixGenerator):
    """Draws the overlay of a strain that it is given."""

    def __init__(self, strain: np.ndarray) -> None:
        super().__init__(2, 2)
        self.strain = strain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bmode = ((x[0, 0].numpy() + 1) * 127.5).astype(np.uint8)
        rgb = overlay(self.strain, bmode, get_colormap("emode-rainbow", 1), 0.5)
        return torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0).float() / 127.5 - 1


def test_strain_is_read_from_the_colour_that_pix2pix_draws():
    strain = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    spec = PreprocessSpec(height=64, width=64, min_side=16)
    made = Pix2PixPredictor(Draws(strain), spec, GeneratorSpec(), CPU).predict([disc(0).bmode])[0]
    assert np.abs(made.strain - strain).mean() < 0.01
    assert made.colour.shape == (64, 64, 3)


def test_dropout_of_pix2pix_is_the_same_each_time():
    network = Pix2PixGenerator(4, 5)
    predictor = Pix2PixPredictor(network, CONFIG.preprocess_spec(), CONFIG.generator_spec(), CPU)
    frame = disc(0).bmode
    first, second = predictor.predict([frame, frame])
    np.testing.assert_array_equal(first.colour, second.colour)
    assert first.strain.shape == frame.shape
    network.eval()
    assert (predictor.predict([frame])[0].colour != first.colour).any()


def test_mean_map_does_not_look():
    mean = np.tile(np.linspace(0, 1, 64, dtype=np.float32)[:, None], (1, 64))
    a, b = MeanMapPredictor(mean, GeneratorSpec()).predict([disc(0).bmode, np.zeros((40, 80), np.uint8)])
    assert a.strain.shape == (64, 64)
    assert b.strain.shape == (40, 80)
    np.testing.assert_allclose(a.strain, mean, atol=1e-6)
    assert (a.colour != b.colour[:1, :1]).any()


# The table


def scored(name: str, ncc: np.ndarray, box: np.ndarray | None = None) -> Candidate:
    n = len(ncc)
    values = {key: np.full(n, np.nan) for key in MEASURES}
    values |= {"ncc": ncc, "ncc_lesion_box": ncc if box is None else box}
    names = tuple(str(i) for i in range(n))
    return Candidate(name, 10, 20, Scores(names, names, values))


def test_a_baseline_is_beaten_only_where_both_measures_say_so():
    rng = np.random.default_rng(0)
    ours = rng.uniform(0.5, 0.9, 30)
    model = scored("emode", ours)
    worse = ours - rng.uniform(0.02, 0.1, 30)
    about_equal = ours + rng.normal(0, 0.1, 30)
    others = [scored("unet", worse), scored("l1", worse, about_equal)]
    others += [scored("pix2pix", ours), scored("mean-map", ours + 0.05)]
    found = rows(model, others)
    assert [row.beaten for row in found] == [True, False, False, False]
    assert found[0].comparison.measures["ncc"].better_by.mean == pytest.approx(
        (ours - worse).mean(), abs=1e-3
    )
    told = to_json(model, found, {"config": "test"})
    assert told["every_baseline_beaten"] is False
    assert to_json(model, found[:1], {})["every_baseline_beaten"] is True
    assert [one["label"] for one in told["baselines"]] == [LABELS[row.candidate.name] for row in found]
    json.dumps(told, allow_nan=False)
    assert table_of(model, found, 20).row_count == 4 * 2  # two measures each


def test_without_lesions_the_image_decides():
    ours = np.random.default_rng(0).uniform(0.5, 0.9, 30)
    none = np.full(30, np.nan)
    row = rows(scored("emode", ours, none), [scored("unet", ours - 0.1, none)])[0]
    assert row.beaten


# The command


def run(*arguments: object):
    env = {"COLUMNS": "80", "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["baselines", *map(str, arguments)], env=env)


def test_the_command_trains_scores_and_goes_on(folder, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(SETTINGS))
    arguments = ["--config", config, "--training", folder, "--validation", folder, "--data", folder]
    arguments += ["--out", tmp_path / "run", "--device", "cpu", "--json", tmp_path / "table.json"]
    for name in ("mean-map", "unet", "l1"):
        arguments += ["--only", name]
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    table = json.loads((tmp_path / "table.json").read_text())
    assert [one["name"] for one in table["baselines"]] == ["mean-map", "unet", "l1"]
    assert table["model"]["images"] == 4 + 2 * 4
    assert table["synthetic"] is True
    sizes = [one["parameters"] for one in table["baselines"]]
    assert sizes[0] == 0
    assert sizes[1] == pytest.approx(table["model"]["parameters"], rel=0.1)
    assert "against baselines" in done.output
    # Nothing is cut off on a terminal of 80 columns.
    for words in ("mean-map", "unet", "l1", "million", "NCC, whole image", "NCC, lesion box", "better by"):
        assert words in done.output
    assert "…" not in done.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("checkpoint.pt")}
    assert len(before) == 3
    assert run(*arguments).exit_code == 0
    assert json.loads((tmp_path / "table.json").read_text()) == table
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_the_command_refuses_what_it_cannot_do(folder, tmp_path):
    arguments = ["--config", "small", "--validation", folder, "--data", folder, "--out", tmp_path / "run"]
    done = run(*arguments, "--training", folder, "--only", "cyclegan")
    assert "--only cyclegan; there are mean-map, unet, l1, pix2pix" in str(done.exception)
    judge = tmp_path / "judge"
    write_header(judge, replace(Maker("test", 1, simulated=True), name=REFEREE))
    done = run(*arguments, "--training", judge)
    assert "second simulator" in str(done.exception)
    assert not (tmp_path / "run").exists()
