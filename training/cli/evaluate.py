"""`emode-train evaluate`: score a bundle."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from model.bundle import read_bundle
from model.predict import Predictor
from training.cli.app import Threads, app, console, use_threads
from training.pairs.folder import open_folder
from training.scoring.evaluate import Predicts, Report
from training.scoring.evaluate import evaluate as evaluate_pairs
from training.scoring.scores import mean_map


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
    use_threads(threads)
    report = run_evaluate(Predictor(read_bundle(bundle), device="auto"), data, training)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        Console().print(table_of(report))


def run_evaluate(predictor: Predicts, data: Path, training: Path | None) -> Report:
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


def table_of(report: Report) -> Table:
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
