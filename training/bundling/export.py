"""From a finished run to a bundle: averaged weights, card, provenance, metrics and self-test."""

import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle, SelfTest, pack_weights
from model.generator import Generator, count_parameters
from model.inference import Inference
from model.manifest import sha256
from training.bundling.card import render_card
from training.config import TrainingConfig
from training.errors import CheckpointInvalid
from training.fitting.checkpoint import load_checkpoint
from training.pairs.provenance import Provenance
from training.simulator.simulate import VALIDATION_SEEDS, simulate_pair

LICENCE = "Apache-2.0"
SELF_TEST_SEED = VALIDATION_SEEDS[-1]


def checkpoint_of(run: Path) -> dict[str, Any]:
    """Read a run's last checkpoint; CheckpointInvalid if there is none."""
    state = load_checkpoint(run)
    if state is None:
        raise CheckpointInvalid(f"{run} holds no checkpoint; run emode-train fit first", path=run)
    return state


def shipped_weights(run: Path) -> tuple[TrainingConfig, int, dict[str, torch.Tensor]]:
    """Read a run's configuration, steps taken and averaged weights, rounded to float16 as they ship."""
    state = checkpoint_of(run)
    config = TrainingConfig.model_validate_json(state["identity"]["config"])
    return config, int(state["step"]), {name: value.half() for name, value in state["ema"].items()}


def inference_of(config: TrainingConfig, weights: dict[str, torch.Tensor]) -> Inference:
    """Return the network with the weights as they ship, for evaluation before the bundle exists."""
    network = Generator(config.generator_spec())
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return Inference(network, config.preprocess_spec())


def build_bundle(run: Path, *, metrics: dict[str, Any], created_at: datetime) -> Bundle:
    """Make the bundle of a run; `metrics` is what `evaluate` reported for it, without single pairs."""
    config, steps, weights = shipped_weights(run)
    inference = inference_of(config, weights)
    frame = simulate_pair(SELF_TEST_SEED).bmode
    result = inference.predict([frame])[0]
    provenance = Provenance.from_json(checkpoint_of(run)["identity"]["provenance"])
    training = {
        "simulated": provenance.simulated,
        "provenance": provenance.to_json(),
        "steps": steps,
        "parameters": count_parameters(Generator(config.generator_spec())),
        "seed": config.seed,
        "git_commit": git_commit(),
        "torch": torch.__version__,
        "config": json.loads(config.model_dump_json()),
    }
    return Bundle(
        name=config.name,
        version=config.version,
        created_at=created_at.isoformat(timespec="seconds"),
        licence=LICENCE,
        generator=config.generator_spec(),
        preprocess=config.preprocess_spec(),
        training=training,
        metrics=metrics,
        weights=weights,
        weights_sha256=sha256(pack_weights(weights)),
        self_test=SelfTest(frame, result.strain, result.colour),
        card=render_card(config, training, metrics),
    )


def git_commit() -> str:
    """Return the commit of this source tree, with "-dirty" if it was changed; "unknown" outside git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return "unknown"
    return f"{commit}-dirty" if git("status", "--porcelain", "--", "../../model", "..") else commit
