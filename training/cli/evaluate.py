"""`emode-train evaluate`: score a bundle."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from model.bundle import read_bundle
from model.generator import GeneratorSpec
from model.inference import Inference
from model.predict import Predictor
from training.cli.app import Threads, app, console, use_threads
from training.cli.tables import table_of, table_of_discrimination, table_of_stills
from training.errors import ArgumentsInvalid
from training.layouts.expected import expected_strain
from training.pairs.folder import open_folder
from training.pairs.split import Side, side_of
from training.pairs.stills import Entry, Still, read_index, read_still
from training.replacing import replacing
from training.scoring.evaluate import Predicts
from training.scoring.evaluate import evaluate as evaluate_pairs
from training.scoring.measures import Palette
from training.scoring.pictures import write_examples, write_still_examples
from training.scoring.references import mean_map
from training.scoring.regions import Map
from training.scoring.report import Report
from training.scoring.sources import open_pairs
from training.scoring.stills import StillsReport, score_stills

BundleFolder = Annotated[Path, typer.Option(help="Bundle folder.")]
Training = Annotated[
    Path | None,
    typer.Option(help="Training pairs, for the mean-map floor; without, the mean of the other pairs."),
]
Json = Annotated[
    Path | None, typer.Option("--json", help='Write the whole report here as JSON; "-" prints it.')
]
More = Annotated[
    list[Path] | None, typer.Argument(metavar="[DIR]...", help="Further folders, as in --data A B C.")
]
StillsSide = Literal[Side, "all"]
Draws = Annotated[
    int,
    typer.Option(
        min=0,
        max=100,
        help="With --masks: strains to draw for each still, as simulate --layouts does. Their mean is read "
        "beside the model: what could be reached by one who knew label and mask. A second for each 8.",
    ),
]
STDOUT = Path("-")
CEILING_DRAWS = 8
"""For the card: a mean of so many strays from the mean of all by a third of what single draws do."""


@app.command()
def evaluate(
    bundle: BundleFolder,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of pairs that the bundle was not trained on; several may be given."),
    ] = None,
    more: More = None,
    training: Training = None,
    as_json: Json = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Instead of pairs: a folder of B-mode stills with lesion masks and labels."),
    ] = None,
    side: Annotated[
        StillsSide, typer.Option(help="Which groups of the stills: one side of the split, or all.")
    ] = "validation",
    draws: Draws = 0,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for a sheet: best, median and worst; or softest to hardest.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Score a bundle on pairs: each measure beside its floors (mean map, shuffled) and a repeat scan.

    Any folder in the documented pair format will do. With --masks there is no true strain: scored is
    whether lesions are drawn harder than their surroundings, and malignant ones harder than benign ones.
    What the numbers mean: docs/training.md.
    """
    use_threads(threads)
    folders = [*(data or ()), *(more or ())]
    if bool(folders) == (masks is not None):
        raise ArgumentsInvalid(
            "--data names no folder of pairs" if masks is None else "--data and --masks exclude each other"
        )
    # A score must not depend on what the machine at hand computes in.
    predictor = Predictor(read_bundle(bundle), device="auto", precision="fp32")
    if masks is not None:
        evaluate_masks(predictor, masks, side, training, as_json, pictures, draws)
        return
    report = run_evaluate(predictor, folders, None if training is None else mean_of(training))
    if pictures is not None:
        sheet = pictures / "best-median-worst.png"
        write_examples(sheet, predictor, open_pairs(folders), report, palette_of(predictor))
        console.print(f"pictures in {sheet}")
    give(report.to_json(), as_json)
    if as_json != STDOUT:
        Console().print(table_of(report))


def evaluate_masks(
    predictor: Predicts,
    root: Path,
    side: StillsSide,
    training: Path | None,
    as_json: Path | None,
    pictures: Path | None,
    draws: int = 0,
) -> None:
    """Score stills, and give the result as JSON, pictures and tables."""
    report, skipped = run_masks(predictor, root, side, None if training is None else mean_of(training), draws)
    if pictures is not None:
        sheet = pictures / "softest-to-hardest.png"
        write_still_examples(sheet, predictor, stills_of(entries_of(root, side)), report)
        console.print(f"pictures in {sheet}")
    give({"side": side, "skipped": skipped, **report.to_json()}, as_json)
    if as_json != STDOUT:
        Console().print(table_of_stills(report), table_of_discrimination(report))


def entries_of(root: Path, side: StillsSide) -> list[Entry]:
    """The lines of an index that lie on one side of the split, or all."""
    return [one for one in read_index(root) if side in ("all", side_of(one.group))]


def stills_of(entries: list[Entry]) -> Iterator[Still]:
    """Read stills; those of which the node would make no result are left out."""
    return (still for entry in entries if isinstance(still := read_still(entry), Still))


def run_masks(
    predictor: Predicts, root: Path, side: StillsSide, mean: Map | None, draws: int = 0
) -> tuple[StillsReport, int]:
    """Score stills with a progress bar; returns the report and how many were skipped."""
    entries = entries_of(root, side)
    with Bar(console=console) as bar:
        task = bar.add_task(f"evaluate stills, {side}", total=len(entries))
        report = score_stills(
            predictor,
            lambda: stills_of(entries),
            training_mean=mean,
            expected=partial(expected_strain, draws=draws) if draws else None,
            progress=lambda done: bar.update(task, completed=done),
        )
        bar.update(task, completed=len(entries))  # some may have been skipped
    return report, len(entries) - report.stills


def run_evaluate(predictor: Predicts, data: Path | list[Path], mean: Map | None) -> Report:
    """Score folders of pairs with a progress bar."""
    pairs = open_pairs([data] if isinstance(data, Path) else data)
    with Bar(console=console) as bar:
        task = bar.add_task("evaluate", total=len(pairs))
        return evaluate_pairs(
            predictor, pairs, training_mean=mean, simulated=pairs.simulated, palette=palette_of(predictor),
            progress=lambda done: bar.update(task, completed=done),
        )  # fmt: skip


def mean_of(training: Path) -> Map:
    """The mean map of a folder of training pairs, with a progress bar."""
    known = open_folder(training)
    with Bar(console=console) as bar:
        numbers = bar.track(range(len(known)), description="mean of training pairs")
        return mean_map(known.read(i).strain for i in numbers)


def palette_of(predictor: Predicts) -> Palette:
    """How a predictor paints strain; the default of bundles where it does not say."""
    if isinstance(predictor, Predictor):
        return Palette.of(predictor.bundle.generator)
    return Palette.of(predictor.spec if isinstance(predictor, Inference) else GeneratorSpec())


def give(report: dict[str, Any], to: Path | None) -> None:
    """Print a report as JSON, or write it to a file; nothing if that was not asked for."""
    text = json.dumps(report, indent=2, allow_nan=False)
    if to == STDOUT:
        typer.echo(text)
    elif to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with replacing(to) as file:
            file.write(text.encode())
        console.print(f"report in {to}")
