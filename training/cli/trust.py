"""`emode-train trust`: what a bundle knows of its own limits."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from model.bundle import read_bundle, write_bundle
from model.inference import Inference
from model.predict import Predictor
from training.bundling.trust import Fitted, fit_trust
from training.cli.app import Out, app, console
from training.scoring.evaluate import Predicts

Familiar = Annotated[
    Path | None,
    typer.Option(
        help="Folder of real B-mode stills with index.csv: their training groups are what is familiar. "
        "Without, real frames are judged by simulated ones alone, which flags more of them."
    ),
]


@app.command()
def trust(
    bundle: Annotated[Path, typer.Option(help="Bundle folder.")],
    data: Annotated[Path, typer.Option(help="Folder of pairs that the bundle was not trained on.")],
    training: Annotated[Path, typer.Option(help="Folder of pairs that it was trained on.")],
    out: Out,
    familiar: Familiar = None,
    replace_it: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
) -> None:
    """Fit which frames are familiar and how sure the model is; write the bundle with it.

    The weights stay as they are. Results say what they were made with: give a bundle that is in use another
    version before you change this.
    """
    known = read_bundle(bundle)
    inference = Inference(known.build_generator(), known.preprocess)
    fitted = run_trust(inference, training, data, familiar)
    metrics = {**known.metrics, "trust": fitted.metrics}
    write_bundle(replace(known, trust=fitted.trust, metrics=metrics), out, replace=replace_it)
    Predictor(read_bundle(out), device="cpu")
    console.print(trust_table(fitted.metrics))
    console.print(f"{known.id} passed its self-test and is in {out}")


def run_trust(predictor: Predicts, training: Path, data: Path, familiar: Path | None) -> Fitted:
    """Fit with a progress bar."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("trust", total=None)

        def show(step: str) -> None:
            bar.update(task, description=f"trust: {step}")

        return fit_trust(predictor, training, data, familiar, progress=show)


def trust_table(metrics: dict[str, Any]) -> Table:
    """Flags, kind by kind, as `Fitted.metrics` has them."""
    familiarity = metrics["familiarity"]
    table = Table(title=f"Flagged as unfamiliar (familiarity under {familiarity['limit']}), 95 % interval")
    for column in ("frames", "flagged", "never told of it"):
        table.add_column(column)
    for name, share in familiarity["good"].items():
        table.add_row(f"breast: {name}", _cell(share), "")
    for kind, share in familiarity["kinds"].items():
        table.add_row(f"other: {kind}", _cell(share), _cell(familiarity["unmet"][kind]))
    return table


def _cell(share: dict[str, float]) -> str:
    return f"{share['flagged']} of {share['n']}  [{share['low']:.3f}, {share['high']:.3f}]"
