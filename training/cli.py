"""`emode-train`: simulate pairs, fit a generator, evaluate it, export a bundle."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import cv2
import torch
import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from model.bundle import read_bundle, write_bundle
from model.errors import ModelError
from model.predict import Predictor
from training.config import CONFIGS, TrainingConfig, read_config
from training.data import open_folder
from training.errors import ConfigInvalid, TooFewPairs, TrainingError
from training.evaluate import Predicts, Report
from training.evaluate import evaluate as evaluate_pairs
from training.export import build_bundle, inference_of, shipped_weights
from training.fit import Progress
from training.fit import fit as fit_generator
from training.generate import generate
from training.samples import Samples, load_samples
from training.scores import mean_map
from training.simulate import TEST_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS

console = Console(stderr=True)
app = typer.Typer(
    help="Train the generator of Emode. Start with: emode-train quick --out runs/first",
    epilog="Exit status: 0 all went well; 2 something is wrong with the arguments, files or configuration.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

Out = Annotated[
    Path, typer.Option("--out", help="Folder to write to; a second call goes on where the first ended.")
]
Config = Annotated[
    str, typer.Option("--config", help='A YAML file, or the name of one that ships, like "small".')
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all cores if not given.")]


@app.command()
def simulate(
    n: Annotated[int, typer.Option("--n", min=1, help="How many pairs.")],
    out: Out,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            help="Seed of the first pair; the others follow. Below 1 000 000 is for training, "
            "from there for validation, from 2 000 000 for tests.",
        ),
    ] = TRAINING_SEEDS[0],
    processes: Annotated[int | None, typer.Option(help="Processes; all cores if not given.")] = None,
) -> None:
    """Make pairs of B-mode and strain by finite elements and simulated speckle. Resumes."""
    _simulate(out, range(seed, seed + n), processes)
    console.print(f"{n} pairs in {out}")


@app.command()
def fit(
    config: Config,
    training: Annotated[Path, typer.Option(help="Folder of training pairs.")],
    validation: Annotated[Path, typer.Option(help="Folder of validation pairs.")],
    out: Out,
    threads: Threads = None,
) -> None:
    """Train a generator on pairs. Kill it at any time: the same call goes on to the same result."""
    _fit(_config(config), training, validation, out, threads)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Option(help="Bundle folder.")],
    data: Annotated[Path, typer.Option(help="Folder of pairs that the bundle was not trained on.")],
    training: Annotated[
        Path | None,
        typer.Option(help="Training pairs, for the mean-map floor; without, the mean of the other pairs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
    threads: Threads = None,
) -> None:
    """Score a bundle: NCC beside its floors (mean map, shuffled pairs) and a repeat scan."""
    _use_threads(threads)
    report = _evaluate(Predictor(read_bundle(bundle), device="auto"), data, training)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        Console().print(_table(report))


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Folder that fit wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of test pairs for the card.")],
    training: Annotated[Path, typer.Option(help="Folder of training pairs, for the mean-map floor.")],
    out: Out,
    replace_it: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
) -> None:
    """Evaluate the averaged weights of a run and write them as a bundle with its card."""
    _export(run, data, training, out, replace_it=replace_it)


@app.command()
def quick(
    out: Out,
    config: Config = "small",
    threads: Threads = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes that simulate; all cores if not given.")
    ] = None,
) -> None:
    """Do everything: simulate, fit, evaluate and export a bundle to OUT/bundle. Resumes."""
    settings = _config(config)
    sizes, pairs = settings.simulation, out / "pairs"
    for name, seeds, n in (
        ("training", TRAINING_SEEDS, sizes.training_pairs),
        ("validation", VALIDATION_SEEDS, sizes.validation_pairs),
        ("test", TEST_SEEDS, sizes.test_pairs),
    ):
        _simulate(pairs / name, seeds[:n], processes)
    _fit(settings, pairs / "training", pairs / "validation", out, threads)
    _export(out, pairs / "test", pairs / "training", out / "bundle", replace_it=True)


def _config(name: str) -> TrainingConfig:
    shipped = CONFIGS / f"{name}.yaml"
    path = shipped if shipped.exists() else Path(name)
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise ConfigInvalid(f'"{name}" is neither a file nor one of {known}')
    return read_config(path)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


def _simulate(out: Path, seeds: range, processes: int | None) -> None:
    with Bar(console=console) as bar:
        task = bar.add_task(f"simulate {out.name}", total=len(seeds))
        for _ in generate(out, seeds, processes):
            bar.advance(task)


def _load(folder: Path, config: TrainingConfig) -> Samples:
    files = open_folder(folder).files
    samples = None
    with Bar(console=console) as bar:
        task = bar.add_task(f"read {folder.name}", total=len(files))
        for done, samples in load_samples(files, config.preprocess_spec()):  # noqa: B007 - the last is whole
            bar.update(task, completed=done)
    if samples is None:
        raise TooFewPairs(f"{folder} holds no pairs")
    return samples


def _fit(config: TrainingConfig, training: Path, validation: Path, out: Path, threads: int | None) -> None:
    _use_threads(threads)
    data, held_out = _load(training, config), _load(validation, config)
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


def _evaluate(predictor: Predicts, data: Path, training: Path | None) -> Report:
    folder = open_folder(data)
    pairs = [folder.read(i) for i in range(len(folder))]
    mean = None
    if training is not None:
        known = open_folder(training)
        mean = mean_map([known.read(i).strain for i in range(len(known))])
    with Bar(console=console) as bar:
        task = bar.add_task("evaluate", total=len(pairs))
        return evaluate_pairs(
            predictor, pairs, training_mean=mean, simulated=folder.simulated,
            progress=lambda done: bar.update(task, completed=done),
        )  # fmt: skip


def _export(run: Path, data: Path, training: Path, out: Path, *, replace_it: bool) -> None:
    config, _, weights = shipped_weights(run)
    report = replace(_evaluate(inference_of(config, weights), data, training), per_pair=[])
    metrics = {key: value for key, value in report.to_json().items() if key != "per_pair"}
    bundle = build_bundle(run, metrics=metrics, created_at=datetime.now(UTC))
    write_bundle(bundle, out, replace=replace_it)
    written = Predictor(read_bundle(out), device="cpu")
    console.print(_table(report))
    console.print(f"{written.bundle.id} passed its self-test and is in {out}")


def _table(report: Report) -> Table:
    table = Table(title=f"NCC on {report.pairs} pairs; mean map from {report.mean_map_from}")
    for column in ("", "whole image", "lesion box"):
        table.add_column(column)
    rows = {
        "generated": "generated",
        "mean_map": "floor: mean map",
        "shuffled": "floor: shuffled",
        "repeat_scan": "reference: repeat scan",
        "above_mean_map": "above mean map",
    }
    for key, label in rows.items():
        cells = [
            "-" if region is None else _cell(region, key) for region in (report.image, report.lesion_box)
        ]
        table.add_row(label, *cells)
    return table


def _cell(region: object, key: str) -> str:
    value = getattr(region, key)
    return f"{value.mean:.3f}  [{value.low:.3f}, {value.high:.3f}]"


def main() -> None:
    """Entry point of the `emode-train` script."""
    try:
        app(standalone_mode=True)
    except (TrainingError, ModelError) as error:
        console.print(f"[red]emode-train:[/red] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
