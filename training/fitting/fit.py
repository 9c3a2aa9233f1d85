"""The training run: epochs over pairs, a log line and a sample sheet each, resumable at any step."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from training.config import TrainingConfig
from training.errors import CheckpointInvalid, TooFewPairs
from training.fitting.checkpoint import load_checkpoint, save_checkpoint
from training.fitting.journal import Journal
from training.fitting.losses import ncc
from training.fitting.parallel import World
from training.fitting.schedule import Schedule
from training.fitting.sheet import write_sheet
from training.fitting.step import Losses, Trainer
from training.pairs.augment import augment
from training.pairs.provenance import Provenance
from training.pairs.samples import Samples, box_area, epoch_order, lesion_boxes, step_rng, take

ALONE = World(torch.device("cpu"))
UNKNOWN = Provenance()


@dataclass(frozen=True)
class Progress:
    """Where a run stands; given to the caller after each step."""

    epoch: int
    step: int
    total_steps: int
    losses: Losses
    epoch_means: Losses | None = None
    """Means over the epoch and the validation scores, once at its end."""


def fit(
    config: TrainingConfig,
    training: Samples,
    validation: Samples,
    out: Path,
    *,
    world: World = ALONE,
    provenance: Provenance = UNKNOWN,
    start: Mapping[str, torch.Tensor] | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    checkpoint_every: int = 200,
    stop_after: int | None = None,
) -> Trainer:
    """Train, or go on with the run in `out`, until the last epoch (or step `stop_after`).

    provenance  what the pairs are; kept with the run, and part of its identity.
    start       weights of a generator of the same configuration to begin with, instead of random ones.

    Writes checkpoint.pt, log.csv, events/ and samples/epoch-NNN.png. The same configuration, pairs, machine
    and number of processes give the same weights however often the run was interrupted.

    Raises CheckpointInvalid if `out` holds another configuration's run, TooFewPairs, NotFinite.
    """
    if len(validation) < 1:
        raise TooFewPairs("none for validation")
    schedule = Schedule(config.phases, len(training), world.size)
    if world.leads:
        (out / "samples").mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, world)
    identity = {
        "config": config.model_dump_json(),
        "training_pairs": len(training),
        "processes": world.size,
        "provenance": provenance.to_json(),
    }
    if start is not None:
        trainer.begin_with(start)
    sums: Losses = {}
    if (state := load_checkpoint(out)) is not None:
        if state["identity"] != identity:
            raise CheckpointInvalid(f"{out} holds a run with another configuration or other pairs", path=out)
        trainer.restore(state)
        sums = dict(state["sums"])
    journal = Journal(out, trainer.step) if world.leads else None
    started = time.monotonic()
    saved = trainer.step

    def save() -> None:
        if world.leads:
            save_checkpoint(out, {**trainer.state(), "identity": identity, "sums": sums})

    while trainer.step < schedule.total and (stop_after is None or trainer.step < stop_after):
        at = schedule.at(trainer.step)
        size = at.phase.batch_size
        first = (at.index * world.size + world.rank) * size
        index = epoch_order(len(training), config.seed, at.epoch)[first : first + size]
        rng = step_rng(config.seed, at.epoch, at.index + 1, world.rank)
        batch = augment(take(training, index, at.phase.shrink), rng)
        losses = trainer.train_on(batch, at, rng)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        row = None
        if at.last_of_epoch:
            if journal is not None:
                row = {name: value / schedule.steps_of(at.epoch) for name, value in sums.items()}
                row |= validate(trainer, validation, size, at.phase.shrink)
                journal.epoch(at.epoch, trainer.step, time.monotonic() - started, row)
                write_sheet(out / "samples" / f"epoch-{at.epoch:03d}.png", trainer.ema, validation)
            sums = {}
        elif journal is not None and trainer.step % 20 == 0:
            journal.step(trainer.step, losses)
        if at.last_of_epoch or trainer.step % checkpoint_every == 0:
            save()
            saved = trainer.step
        report(Progress(at.epoch, trainer.step, schedule.total, losses, row))
    if saved != trainer.step:
        save()
    if journal is not None:
        journal.close()
    world.wait()
    return trainer


@torch.no_grad()
def validate(trainer: Trainer, validation: Samples, batch_size: int, shrink: int = 1) -> Losses:
    """Scores of the moving-average generator at network size: NCC of the image and of the lesion box (both
    means), mean absolute error, and what the network expected it to be."""
    image, lesion, errors, expected = [], [], [], []
    for index in torch.split(torch.arange(len(validation)), batch_size):
        batch = take(validation, index, shrink)
        made = trainer.ema(batch.bmode.contiguous(memory_format=torch.channels_last))
        image.append(ncc(made.strain, batch.strain, batch.covered))
        boxes = lesion_boxes(batch.lesion)
        has = boxes[:, 2] > 0
        lesion.append(ncc(made.strain, batch.strain, box_area(boxes, batch.covered))[has])
        inside = batch.covered > 0
        errors.append((made.strain - batch.strain).abs()[inside].mean())
        expected.append(made.spread[inside].mean())
    inside_lesions = torch.cat(lesion)
    scores = {
        "validation_ncc": float(torch.cat(image).mean()),
        "validation_lesion_ncc": float(inside_lesions.mean()) if len(inside_lesions) else 0.0,
        "validation_error": float(torch.stack(errors).mean()),
    }
    if trainer.config.generator.uncertainty:
        scores["validation_expected_error"] = float(torch.stack(expected).mean())
    return scores
