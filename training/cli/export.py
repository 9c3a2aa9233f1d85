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
from training.bundling.metrics import kept_of_other_maker, kept_of_pairs, kept_of_stills
from training.cli.app import Out, app, console
from training.cli.evaluate import CEILING_DRAWS, mean_of, run_evaluate, run_masks
from training.cli.tables import table_of
from training.cli.trust import Familiar, run_trust, trust_table
from training.errors import TooFewFrames, TooFewPairs
from training.pairs.folder import open_folder


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="Folder that fit wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of test pairs for the card.")],
    training: Annotated[Path, typer.Option(help="Folder of training pairs, for the mean-map floor.")],
    out: Out,
    familiar: Familiar = None,
    other: Annotated[
        Path | None, typer.Option(help="Pairs of another maker than was trained on, for the card.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Stills with lesion masks, for the card: their validation side is scored."),
    ] = None,
    replace_it: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is there.")] = False,
) -> None:
    """Evaluate the averaged weights of a run and write them as a bundle with its card."""
    run_export(run, data, training, out, familiar=familiar, other=other, masks=masks, replace_it=replace_it)


def run_export(
    run: Path,
    data: Path,
    training: Path,
    out: Path,
    *,
    replace_it: bool,
    familiar: Path | None = None,
    other: Path | None = None,
    masks: Path | None = None,
) -> None:
    """Score the run on all that is given, fit what it knows of its limits, and write the bundle."""
    config, _, weights = shipped_weights(run)
    network, mean = inference_of(config, weights), mean_of(training)
    report = run_evaluate(network, data, mean)
    metrics = kept_of_pairs(report.to_json())
    if other is not None:
        found = run_evaluate(network, other, mean).to_json()
        metrics["other_maker"] = kept_of_other_maker(found, open_folder(other).maker)
    if masks is not None:
        on_stills, _ = run_masks(network, masks, "validation", mean, CEILING_DRAWS)
        metrics["stills"] = kept_of_stills(on_stills.to_json(), "validation")
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
