"""`emode-train export`: from a run to a bundle."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from model.bundle import read_bundle, write_bundle
from model.predict import Predictor
from training.bundling.export import build_bundle, inference_of, shipped_weights
from training.cli.app import Out, app, console
from training.cli.evaluate import run_evaluate
from training.cli.tables import table_of


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Folder that fit wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of test pairs for the card.")],
    training: Annotated[Path, typer.Option(help="Folder of training pairs, for the mean-map floor.")],
    out: Out,
    replace_it: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
) -> None:
    """Evaluate the averaged weights of a run and write them as a bundle with its card."""
    run_export(run, data, training, out, replace_it=replace_it)


def run_export(run: Path, data: Path, training: Path, out: Path, *, replace_it: bool) -> None:
    config, _, weights = shipped_weights(run)
    report = replace(run_evaluate(inference_of(config, weights), data, training), per_pair=[])
    metrics = {key: value for key, value in report.to_json().items() if key != "per_pair"}
    bundle = build_bundle(run, metrics=metrics, created_at=datetime.now(UTC))
    write_bundle(bundle, out, replace=replace_it)
    written = Predictor(read_bundle(out), device="cpu")
    console.print(table_of(report))
    console.print(f"{written.bundle.id} passed its self-test and is in {out}")
