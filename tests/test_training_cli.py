"""The commands, as a newcomer would type them."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from model.bundle import read_bundle
from test_training_fit import SETTINGS
from training.cli.main import app, main
from training.pairs.provenance import DataDescription, Provenance
from training.simulator.simulate import SIMULATOR


def emode_train(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    settings = {**SETTINGS, "simulation": {"training_pairs": 4, "validation_pairs": 2, "test_pairs": 4}}
    (out / "config.yaml").write_text(yaml.safe_dump(settings))
    emode_train(
        "quick", "--out", str(out), "--config", str(out / "config.yaml"), "--threads", "1", "--processes", "1"
    )
    return out


def test_quick_ends_with_a_bundle(quick_run):
    bundle = read_bundle(quick_run / "bundle")
    assert bundle.id == "test-0.0.1"
    assert bundle.metrics["pairs"] == 4
    (data,) = Provenance.from_json(bundle.training["provenance"]).training
    assert data == DataDescription("simulator", SIMULATOR.version, True, 4, "00000000", "00000003")
    assert bundle.training["steps"] == 4
    assert len(bundle.training["config"]["phases"]) == 2


def test_resume_goes_on_and_begins_nothing(quick_run, tmp_path):
    """A mistyped --out must not begin a second run of hours."""
    pairs = quick_run / "pairs"
    command = ["fit", "--config", str(quick_run / "config.yaml"), "--resume", "--threads", "1"]
    command += ["--training", str(pairs / "training"), "--validation", str(pairs / "validation"), "--out"]
    mistyped = emode_train(*command, str(tmp_path / "smal"), check=False)
    assert mistyped.returncode != 0
    assert "No run began in this folder" in mistyped.stderr
    assert not (tmp_path / "smal").exists()
    run = next(quick_run.rglob("checkpoint.pt")).parent
    before = (run / "log.csv").read_text()
    emode_train(*command, str(run))
    assert (run / "log.csv").read_text() == before


def test_evaluate_prints_the_numbers_on_the_card(quick_run):
    done = emode_train(
        "evaluate", "--json", "-", "--threads", "1",
        "--bundle", str(quick_run / "bundle"),
        "--data", str(quick_run / "pairs" / "test"),
        "--training", str(quick_run / "pairs" / "training"),
    )  # fmt: skip
    report = json.loads(done.stdout)
    metrics = dict(read_bundle(quick_run / "bundle").metrics)
    assert report["image"] == metrics["image"]
    assert len(report["per_pair"]) == 4


def test_evaluate_takes_several_folders_and_leaves_report_and_pictures(quick_run, tmp_path):
    done = emode_train(
        "evaluate", "--threads", "1", "--json", str(tmp_path / "new" / "report.json"),
        "--pictures", str(tmp_path), "--bundle", str(quick_run / "bundle"),
        "--data", str(quick_run / "pairs" / "test"), str(quick_run / "pairs" / "validation"),
    )  # fmt: skip
    assert "6 pairs, 6 groups" in done.stdout
    for words in ("Synthetic", "NCC, lesion box", "Tsukuba", "floors"):
        assert words in done.stdout
    assert json.loads((tmp_path / "new" / "report.json").read_text())["pairs"] == 6
    assert (tmp_path / "best-median-worst.png").read_bytes().startswith(b"\x89PNG")
    nothing = emode_train("evaluate", "--bundle", str(quick_run / "bundle"), check=False)
    assert nothing.returncode == 2
    assert "--data names no folder" in nothing.stderr


def test_compare_finds_no_difference_between_a_bundle_and_itself(quick_run, tmp_path):
    bundle, out = str(quick_run / "bundle"), tmp_path / "comparison.json"
    done = emode_train(
        "compare", bundle, bundle, "--data", str(quick_run / "pairs" / "test"), "--threads", "1",
        "--json", str(out),
    )  # fmt: skip
    assert "A is test-0.0.1, B is test-0.0.1" in done.stdout
    found = json.loads(out.read_text())
    assert found["first"] == "test-0.0.1"
    assert {one["sign_flip_holm"] for one in found["measures"].values()} == {1.0}
    assert found["measures"]["ncc"]["better_by"]["mean"] == 0.0


def test_speed_says_what_was_measured_on_what(quick_run):
    done = emode_train(
        "speed",
        "--json",
        "--threads",
        "1",
        "--runs",
        "4",
        "--side",
        "64",
        "--bundle",
        str(quick_run / "bundle"),
    )
    found = json.loads(done.stdout)
    assert (found["threads"], found["side"]) == (1, 64)
    for part in ("network", "whole"):
        assert 0 < found[part]["low"] <= found[part]["median"] <= found[part]["high"]


@pytest.mark.parametrize(
    "command", ["", "simulate", "fit", "evaluate", "compare", "export", "quick", "speed"]
)
def test_help_says_what_it_does(command):
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert "--help" in done.stdout
    assert len(done.stdout) > 200


def test_problems_are_one_sentence_and_status_two(tmp_path, monkeypatch, capsys):
    done = emode_train("quick", "--out", str(tmp_path), "--config", "huge", check=False)
    assert done.returncode == 2
    assert '"huge" is neither a file nor one of ' in done.stderr
    assert "small" in done.stderr
    assert "Traceback" not in done.stderr
    arguments = ["evaluate", "--bundle", str(tmp_path), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["emode-train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "manifest.json cannot be read" in capsys.readouterr().err
