"""`emode-train fit`: train a generator on folders of pairs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress as Bar

from training.cli.app import Config, Out, Threads, app, console, find_config, use_threads
from training.config import TrainingConfig
from training.errors import TooFewPairs
from training.fitting.fit import Progress
from training.fitting.fit import fit as fit_generator
from training.pairs.folder import open_folder
from training.pairs.samples import Samples, load_samples


@app.command()
def fit(
    config: Config,
    training: Annotated[Path, typer.Option(help="Folder of training pairs.")],
    validation: Annotated[Path, typer.Option(help="Folder of validation pairs.")],
    out: Out,
    threads: Threads = None,
) -> None:
    """Train a generator on pairs. Kill it at any time: the same call goes on to the same result."""
    run_fit(find_config(config), training, validation, out, threads)


def run_fit(config: TrainingConfig, training: Path, validation: Path, out: Path, threads: int | None) -> None:
    use_threads(threads)
    data, held_out = load(training, config), load(validation, config)
    with Bar(console=console) as bar:
        task = bar.add_task("fit", total=None)

        def report(progress: Progress) -> None:
            losses = progress.losses
            text = f"epoch {progress.epoch} loss {losses['loss']:.2f} 1-NCC {losses['ncc']:.3f}"
            bar.update(task, total=progress.total_steps, completed=progress.step, description=text)
            if (means := progress.epoch_means) is not None:
                scores = f"NCC {means['validation_ncc']:.3f} on validation pairs"
                bar.console.print(f"epoch {progress.epoch}: loss {means['loss']:.2f}, {scores}")

        fit_generator(config, data, held_out, out, report=report)


def load(folder: Path, config: TrainingConfig) -> Samples:
    files = open_folder(folder).files
    samples = None
    with Bar(console=console) as bar:
        task = bar.add_task(f"read {folder.name}", total=len(files))
        for done, samples in load_samples(files, config.preprocess_spec()):  # noqa: B007 - the last is whole
            bar.update(task, completed=done)
    if samples is None:
        raise TooFewPairs(f"{folder} holds no pairs")
    return samples
