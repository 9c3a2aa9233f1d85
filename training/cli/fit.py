"""`emode-train fit`: train a generator on folders of pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import Progress as Bar

from model.bundle import read_bundle
from training.cli.app import Config, Out, Threads, app, console, find_config, use_threads
from training.config import TrainingConfig
from training.errors import NothingToResume, TooFewPairs
from training.fitting.checkpoint import has_checkpoint
from training.fitting.fit import Progress
from training.fitting.fit import fit as fit_generator
from training.fitting.parallel import joined
from training.pairs.folder import open_folder, refuse_for_training
from training.pairs.provenance import Provenance
from training.pairs.samples import Samples, load_samples

Start = Annotated[
    Path | None,
    typer.Option(help="Bundle whose weights to begin with, as to go on with a hospital's own pairs."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Only go on: an error where OUT holds no run. Without it a call goes on or begins one.",
    ),
]
Device = Annotated[str, typer.Option(help="auto takes a GPU if there is one; cpu does not look.")]


@app.command()
def fit(
    config: Config,
    training: Annotated[
        list[Path],
        typer.Option(help="Folder of training pairs. Give several; one given twice is seen twice as often."),
    ],
    validation: Annotated[list[Path], typer.Option(help="Folder of validation pairs; give several.")],
    out: Out,
    start: Start = None,
    resume: Resume = False,
    device: Annotated[
        str, typer.Option(help="auto takes a GPU if there is one; cpu does not look.")
    ] = "auto",
    threads: Threads = None,
) -> None:
    """Train a generator on pairs. Kill it at any time: the same call goes on to the same result.

    On several GPUs: torchrun --nproc-per-node 4 -m training.cli fit ...
    """
    if resume and not has_checkpoint(out):
        raise NothingToResume(str(out))
    run_fit(find_config(config), training, validation, out, start=start, device=device, threads=threads)


def run_fit(
    config: TrainingConfig,
    training: Sequence[Path],
    validation: Sequence[Path],
    out: Path,
    *,
    start: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Read the pairs and train, with a progress bar."""
    use_threads(threads)
    for folder in (*training, *validation):
        refuse_for_training(open_folder(folder))
    bundle = None if start is None else read_bundle(start)
    provenance = Provenance.of(training, validation, "" if bundle is None else bundle.id)
    with joined(device) as world, Bar(console=console, disable=not world.leads) as bar:
        # One reader at a time would be kinder to a disk; each process needs all pairs all the same.
        read = {folder: load(folder, config, bar) for folder in dict.fromkeys([*training, *validation])}
        data = join([read[folder] for folder in training]).to(world.device)
        held_out = join([read[folder] for folder in validation]).to(world.device)
        del read
        task = bar.add_task("fit", total=None)

        def report(progress: Progress) -> None:
            losses = progress.losses
            text = f"epoch {progress.epoch} loss {losses['loss']:.2f} 1-NCC {losses['ncc']:.3f}"
            bar.update(task, total=progress.total_steps, completed=progress.step, description=text)
            if (means := progress.epoch_means) is not None:
                scores = (
                    f"NCC {means['validation_ncc']:.3f}, in lesion boxes {means['validation_lesion_ncc']:.3f}"
                )
                bar.console.print(f"epoch {progress.epoch}: loss {means['loss']:.2f}; validation: {scores}")

        fit_generator(
            config,
            data,
            held_out,
            out,
            world=world,
            provenance=provenance,
            start=None if bundle is None else bundle.weights,
            report=report,
        )


def load(folder: Path, config: TrainingConfig, bar: Bar) -> Samples:
    """Read a folder of pairs at the network's size; TooFewPairs if it is empty."""
    files = open_folder(folder).files
    samples = None
    task = bar.add_task(f"read {folder.name}", total=len(files))
    for done, samples in load_samples(files, config.preprocess_spec()):  # noqa: B007 - the last is whole
        bar.update(task, completed=done)
    if samples is None:
        raise TooFewPairs(f"{folder} holds no pairs")
    return samples


def join(parts: Sequence[Samples]) -> Samples:
    """Put several sets one behind the other."""
    if len(parts) == 1:
        return parts[0]
    names = Samples.__dataclass_fields__
    return Samples(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
