"""`emode-train export`: from a run to a bundle."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from model.bundle import read_bundle, write_bundle
from model.predict import Predictor
from model.trust import Trust
from training.bundling.export import build_bundle, inference_of, shipped_weights
from training.cli.app import Out, app, console
from training.cli.evaluate import run_evaluate
from training.cli.tables import table_of
from training.cli.trust import Familiar, run_trust, trust_table
from training.errors import TooFewFrames, TooFewPairs


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Folder that fit wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of test pairs for the card.")],
    training: Annotated[Path, typer.Option(help="Folder of training pairs, for the mean-map floor.")],
    out: Out,
    familiar: Familiar = None,
    replace_it: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
) -> None:
    """Evaluate the averaged weights of a run and write them as a bundle with its card."""
    run_export(run, data, training, out, familiar=familiar, replace_it=replace_it)


def run_export(
    run: Path, data: Path, training: Path, out: Path, *, replace_it: bool, familiar: Path | None = None
) -> None:
    config, _, weights = shipped_weights(run)
    report = replace(run_evaluate(inference_of(config, weights), data, training), per_pair=[])
    metrics = {key: value for key, value in report.to_json().items() if key != "per_pair"}
    trust = Trust()
    try:
        fitted = run_trust(inference_of(config, weights), training, data, familiar)
        trust, metrics["trust"] = fitted.trust, fitted.metrics
    except (TooFewFrames, TooFewPairs) as error:
        console.print(f"[yellow]The bundle will not know its limits:[/yellow] {error}", soft_wrap=True)
    bundle = build_bundle(run, metrics=metrics, created_at=datetime.now(UTC))
    write_bundle(replace(bundle, trust=trust), out, replace=replace_it)
    written = Predictor(read_bundle(out), device="cpu")
    console.print(table_of(report))
    if "trust" in metrics:
        console.print(trust_table(metrics["trust"]))
    console.print(f"{written.bundle.id} passed its self-test and is in {out}")
