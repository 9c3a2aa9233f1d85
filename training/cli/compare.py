"""`emode-train compare`: two bundles on the same pairs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from model.bundle import read_bundle
from model.predict import Predictor
from training.cli.app import Threads, app, console, use_threads
from training.cli.evaluate import STDOUT, Json, give, palette_of
from training.cli.tables import table_of_comparison
from training.scoring.compare import compare_scores
from training.scoring.evaluate import score
from training.scoring.report import Scores
from training.scoring.sources import Pairs, open_pairs


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Bundle folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Bundle folder to compare it with.")],
    data: Annotated[
        list[Path], typer.Option(help="Folder of pairs that neither was trained on; may be repeated.")
    ],
    as_json: Json = None,
    threads: Threads = None,
) -> None:
    """Compare two bundles on the same pairs: paired differences, intervals and tests.

    Differences are tested over groups (patients) by sign flips and by Wilcoxon's signed-rank test, and
    adjusted by Holm for the number of measures.
    """
    use_threads(threads)
    pairs = open_pairs(data)
    predictors = [
        Predictor(read_bundle(bundle), device="auto", precision="fp32") for bundle in (first, second)
    ]
    comparison = compare_scores(*(_scored(predictor, pairs) for predictor in predictors))
    names = [predictor.bundle.id for predictor in predictors]
    give({"first": names[0], "second": names[1], **comparison.to_json()}, as_json)
    if as_json != STDOUT:
        Console().print(table_of_comparison(comparison, *names))


def _scored(predictor: Predictor, pairs: Pairs) -> Scores:
    with Bar(console=console) as bar:
        task = bar.add_task(f"score {predictor.bundle.id}", total=len(pairs))
        return score(
            predictor, pairs, palette=palette_of(predictor),
            progress=lambda done: bar.update(task, completed=done),
        )  # fmt: skip
