"""The training run: epochs over pairs, a log line and a sample sheet each, resumable at any step."""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from training.config import TrainingConfig
from training.errors import CheckpointInvalid, TooFewPairs
from training.fitting.checkpoint import load_checkpoint, save_checkpoint
from training.fitting.losses import ncc
from training.fitting.sheet import write_sheet
from training.fitting.step import Losses, Trainer
from training.pairs.samples import Samples, draw_batch, epoch_order, step_rng

LOG = "log.csv"
COLUMNS = (
    "epoch", "step", "seconds", "loss", "strain_l1", "colour_l1", "ncc", "gradient", "adversarial",
    "discriminator", "validation_ncc", "validation_lesion_ncc",
)  # fmt: skip


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
    report: Callable[[Progress], None] = lambda _: None,
    checkpoint_every: int = 200,
    stop_after: int | None = None,
) -> Trainer:
    """Train, or go on with the run in `out`, until the last epoch (or step `stop_after`).

    Writes checkpoint.pt, log.csv and samples/epoch-NNN.png. The same configuration, pairs and
    machine give the same weights however often the run was interrupted.

    Raises CheckpointInvalid if `out` holds another configuration's run, TooFewPairs, NotFinite.
    """
    steps_per_epoch = len(training) // config.batch_size
    if steps_per_epoch < 1 or len(validation) < 1:
        raise TooFewPairs(
            f"{len(training)} for training in batches of {config.batch_size}, "
            f"{len(validation)} for validation"
        )
    (out / "samples").mkdir(parents=True, exist_ok=True)
    total = steps_per_epoch * config.epochs
    trainer = Trainer(config, total, config.warmup_epochs * steps_per_epoch)
    identity = {"config": config.model_dump_json(), "training_pairs": len(training)}
    sums: Losses = {}
    if (state := load_checkpoint(out)) is not None:
        if state["identity"] != identity:
            raise CheckpointInvalid(f"{out} holds a run with another configuration or other pairs", path=out)
        trainer.restore(state)
        sums = dict(state["sums"])
    _trim_log(out / LOG, trainer.step)
    started = time.monotonic()
    while trainer.step < total and (stop_after is None or trainer.step < stop_after):
        epoch, i = divmod(trainer.step, steps_per_epoch)
        order = epoch_order(len(training), config.seed, epoch)
        index = order[i * config.batch_size : (i + 1) * config.batch_size]
        batch = draw_batch(training, index, step_rng(config.seed, epoch, i + 1))
        losses = trainer.train_on(batch)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
        last_of_epoch, row = i + 1 == steps_per_epoch, None
        if last_of_epoch:
            row = {name: value / steps_per_epoch for name, value in sums.items()}
            row |= validate(trainer, validation, config.batch_size)
            _append_log(
                out / LOG,
                {"epoch": epoch, "step": trainer.step, "seconds": time.monotonic() - started, **row},
            )
            write_sheet(out / "samples" / f"epoch-{epoch:03d}.png", trainer.ema, validation)
            sums = {}
        if last_of_epoch or trainer.step % checkpoint_every == 0:
            save_checkpoint(out, {**trainer.state(), "identity": identity, "sums": sums})
        report(Progress(epoch, trainer.step, total, losses, row))
    save_checkpoint(out, {**trainer.state(), "identity": identity, "sums": sums})
    return trainer


@torch.no_grad()
def validate(trainer: Trainer, validation: Samples, batch_size: int) -> Losses:
    """Mean NCC of the moving-average generator, whole image and inside lesions, at network size."""
    image, lesion = [], []
    for index in torch.split(torch.arange(len(validation)), batch_size):
        batch = draw_batch(validation, index, None)
        strain = trainer.ema(batch.bmode.contiguous(memory_format=torch.channels_last)).strain
        image.append(ncc(strain, batch.strain, batch.covered))
        has = batch.lesion.flatten(1).sum(dim=1) > 0
        # Lesion and a ring around it: a constant inside has no correlation of its own.
        ring = torch.nn.functional.max_pool2d(batch.lesion, 9, stride=1, padding=4) * batch.covered
        lesion.append(ncc(strain, batch.strain, ring)[has])
    inside = torch.cat(lesion)
    return {
        "validation_ncc": float(torch.cat(image).mean()),
        "validation_lesion_ncc": float(inside.mean()) if len(inside) else 0.0,
    }


def _append_log(path: Path, row: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        writer.writerow(
            {name: value if isinstance(value, int) else f"{value:.5g}" for name, value in row.items()}
        )


def _trim_log(path: Path, step: int) -> None:
    """Drop rows written after the checkpoint that training goes on from: they will come again."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
