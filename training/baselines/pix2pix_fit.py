"""Training pix2pix as published: batches of one, 100 x L1 + the judge's opinion, Adam, linear decay.

Data, order, flips, zooms and looks are those of `training.fitting`, and it sees as many images.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from model.generator import Generator, GeneratorSpec
from training.baselines.pix2pix import FEATURES, Pix2PixGenerator, Pix2PixJudge, halvings_for
from training.config import TrainingConfig
from training.errors import CheckpointInvalid, NotFinite
from training.fitting.checkpoint import load_checkpoint, save_checkpoint
from training.fitting.schedule import Schedule
from training.pairs.augment import augment
from training.pairs.provenance import Provenance
from training.pairs.samples import Batch, Samples, epoch_order, step_rng, take

LEARNING_RATE = 2e-4
BETAS = (0.5, 0.999)
L1_WEIGHT = 100.0

NAME = "pix2pix"


class Painter:
    """The colour E-mode that a configuration means, as a tensor: what pix2pix learns to draw."""

    def __init__(self, spec: GeneratorSpec, device: torch.device) -> None:
        # The rendering is the generator's own; the rest of that network is made as small as can be.
        channels = (4,) * len(spec.channels)
        tiny = replace(spec, channels=channels, dim=4, layers=0, heads=1, uncertainty=False)
        self._generator = Generator(tiny).to(device)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return RGB (N, 3, H, W) in [-1, 1], black in the padding."""
        colour = self._generator.blend(batch.strain, (batch.bmode + 1) / 2)
        return colour * batch.covered * 2 - 1


class Pix2PixTrainer:
    """Both networks, their optimisers, and how far they have come."""

    def __init__(self, config: TrainingConfig, device: torch.device, features: int = FEATURES) -> None:
        self.config, self.device, self.step = config, device, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            size = config.preprocess
            generator = Pix2PixGenerator(features, halvings_for(size.height, size.width))
            judge = Pix2PixJudge(features)
        self.generator, self.judge = generator.to(device), judge.to(device)
        self.generator_optimiser = torch.optim.Adam(generator.parameters(), LEARNING_RATE, BETAS)
        self.judge_optimiser = torch.optim.Adam(judge.parameters(), LEARNING_RATE, BETAS)
        self._paint = Painter(config.generator_spec(), device)

    def train_on(self, batch: Batch, progress: float, rng: torch.Generator) -> dict[str, float]:
        """Take one step of the judge and one of the generator.

        progress  share of the run, 0 to 1: the rate is even for half of it, then falls to zero.

        Raises NotFinite if the loss is no number any more.
        """
        for optimiser in (self.generator_optimiser, self.judge_optimiser):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - progress))
        real = self._paint(batch)
        # Dropout draws from torch's own generator: seeded by the step, so that resuming repeats it.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
            fake = self.generator(batch.bmode)
        truth, lie = self.judge(batch.bmode, real), self.judge(batch.bmode, fake.detach())
        judged = (_opinion(truth, True) + _opinion(lie, False)) / 2
        self.judge_optimiser.zero_grad(set_to_none=True)
        judged.backward()  # type: ignore[no-untyped-call]
        self.judge_optimiser.step()

        self.judge.requires_grad_(False)
        likeness = functional.l1_loss(fake, real)
        loss = _opinion(self.judge(batch.bmode, fake), True) + L1_WEIGHT * likeness
        if not bool(torch.isfinite(loss)):
            raise NotFinite(f"pix2pix, step {self.step}", step=self.step)
        self.generator_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.generator_optimiser.step()
        self.judge.requires_grad_(True)
        self.step += 1
        return {
            "loss": float(loss.detach()),
            "l1": float(likeness.detach()),
            "discriminator": float(judged.detach()),
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"step": self.step, **{name: getattr(self, name).state_dict() for name in _PARTS}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `state` returned."""
        self.step = int(state["step"])
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])


_PARTS = ("generator", "judge", "generator_optimiser", "judge_optimiser")


def fit_pix2pix(
    config: TrainingConfig,
    training: Samples,
    out: Path,
    *,
    device: torch.device,
    provenance: Provenance,
    report: Callable[[int, int], None] = lambda *_: None,
    features: int = FEATURES,
    checkpoint_every: int = 2000,
    stop_after: int | None = None,
) -> Pix2PixTrainer:
    """Train, or go on with the run in `out`, until as many images were seen as `config` gives ours.

    report  called with steps taken and steps in all.

    Raises CheckpointInvalid if `out` holds another run, TooFewPairs, NotFinite.
    """
    phases = [phase.model_copy(update={"batch_size": 1, "shrink": 1}) for phase in config.phases]
    schedule = Schedule(phases, len(training))
    trainer = Pix2PixTrainer(config, device, features)
    identity = {
        "network": NAME,
        "features": features,
        "config": config.model_dump_json(),
        "training_pairs": len(training),
        "provenance": provenance.to_json(),
    }
    if (state := load_checkpoint(out)) is not None:
        if state["identity"] != identity:
            raise CheckpointInvalid(f"{out} holds a run with another configuration or other pairs", path=out)
        trainer.restore(state)
    out.mkdir(parents=True, exist_ok=True)
    saved = trainer.step
    while trainer.step < schedule.total and (stop_after is None or trainer.step < stop_after):
        at = schedule.at(trainer.step)
        index = epoch_order(len(training), config.seed, at.epoch)[at.index : at.index + 1]
        rng = step_rng(config.seed, at.epoch, at.index + 1)
        trainer.train_on(augment(take(training, index), rng), trainer.step / schedule.total, rng)
        if trainer.step % checkpoint_every == 0:
            save_checkpoint(out, {**trainer.state(), "identity": identity})
            saved = trainer.step
        report(trainer.step, schedule.total)
    if saved != trainer.step:
        save_checkpoint(out, {**trainer.state(), "identity": identity})
    return trainer


def _opinion(scores: torch.Tensor, true: bool) -> torch.Tensor:
    """Cross-entropy of patch scores against what they should say."""
    wanted = torch.full_like(scores, float(true))
    return functional.binary_cross_entropy_with_logits(scores, wanted)
