"""`emode-train simulate`: pairs whose strain is computed."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress as Bar

from training.cli.app import Out, Processes, app, console
from training.pairs.generate import generate
from training.simulator.simulate import SIMULATOR, TRAINING_SEEDS, simulate_pair


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
    processes: Processes = None,
) -> None:
    """Make pairs of B-mode and strain by finite elements and simulated speckle. Resumes."""
    fill(out, range(seed, seed + n), processes)
    console.print(f"{n} pairs in {out}")


def fill(out: Path, seeds: range, processes: int | None) -> None:
    with Bar(console=console) as bar:
        task = bar.add_task(f"simulate {out.name}", total=len(seeds))
        for _ in generate(out, seeds, simulate_pair, SIMULATOR, processes):
            bar.advance(task)
