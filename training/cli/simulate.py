"""`emode-train simulate`: pairs whose strain is computed."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress as Bar

from training.cli.app import Out, Processes, app, console
from training.layouts.pairs import LAYOUTS, MAX_DRAWS, make_pair, pair_number
from training.pairs.folder import REFEREE, Maker, open_or_create
from training.pairs.generate import generate
from training.pairs.pair import Pair
from training.pairs.split import Side, side_of
from training.pairs.stills import Entry, Still, index_digest, read_index, read_still
from training.simulator.simulate import SIMULATOR, TRAINING_SEEDS, simulate_pair


class Simulator(StrEnum):
    """Who makes pairs with --n."""

    PHANTOMS = "phantoms"
    REFEREE = REFEREE


@app.command()
def simulate(
    out: Out,
    n: Annotated[int | None, typer.Option("--n", min=1, help="How many pairs of simulated tissue.")] = None,
    layouts: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --n: a folder of real B-mode stills with lesion masks and labels, described by "
            "its index.csv (docs/training.md). Each becomes the B-mode of --draws pairs, in OUT/training or "
            "OUT/validation by its group."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, max=MAX_DRAWS, help="Pairs of each still of --layouts.")] = 4,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            help="Seed of the first pair; the others follow. Below 1 000 000 is for training, "
            "from there for validation, from 2 000 000 for tests. With --layouts: of the first draw.",
        ),
    ] = TRAINING_SEEDS[0],
    simulator: Annotated[
        Simulator,
        typer.Option(
            help="With --n: phantoms are for training and tests; referee makes pairs by other methods, which "
            "only judge (evaluate, compare) and which fit refuses. It needs the extra emode[referee]."
        ),
    ] = Simulator.PHANTOMS,
    processes: Processes = None,
) -> None:
    """Make pairs whose strain is computed: of simulated tissue (--n), or beneath real B-mode (--layouts).

    The same call resumes, and makes the same pairs again from the same seeds.
    """
    if (n is None) == (layouts is None):
        raise typer.BadParameter("give either --n, for simulated tissue, or --layouts")
    if layouts is not None and simulator is not Simulator.PHANTOMS:
        raise typer.BadParameter("--layouts goes without --simulator")
    if layouts is not None:
        fill_layouts(layouts, out, range(seed, seed + draws), processes)
    elif n is not None:
        make, maker = made_by(simulator)
        fill(out, range(seed, seed + n), processes, make, maker)
        console.print(f"{n} pairs in {out}")


def made_by(simulator: Simulator) -> tuple[Callable[[int], Pair], Maker]:
    """Return what makes a pair of a seed, and its name; RefereeUnavailable if its library is missing."""
    if simulator is Simulator.PHANTOMS:
        return simulate_pair, SIMULATOR
    # Only here: nothing else needs its finite-element library.
    from training.referee import make

    return make.make_pair, make.MAKER


def fill(
    out: Path,
    seeds: range,
    processes: int | None,
    make: Callable[[int], Pair] = simulate_pair,
    maker: Maker = SIMULATOR,
) -> None:
    """Fill a folder with the pairs of some seeds, with a progress bar."""
    with Bar(console=console) as bar:
        task = bar.add_task(f"simulate {out.name}", total=len(seeds))
        for _ in generate(out, seeds, make, maker, processes):
            bar.advance(task)


def fill_layouts(stills: Path, out: Path, draws: range, processes: int | None) -> None:
    """Fill OUT/training and OUT/validation; a still that cannot be read is told before anything is made."""
    if draws.stop > MAX_DRAWS:
        raise typer.BadParameter(f"--seed + --draws is {draws.stop}, at most {MAX_DRAWS} with --layouts")
    entries = read_index(stills)
    sides: dict[Side, list[Entry]] = {"training": [], "validation": []}
    with Bar(console=console) as bar:
        task = bar.add_task(f"read {stills.name}", total=len(entries))
        for entry in entries:
            if isinstance(read_still(entry), Still):
                sides[side_of(entry.group)].append(entry)
            bar.advance(task)
    note = f"strain drawn beneath B-mode stills; SHA-256 of their index.csv: {index_digest(stills)}"
    for side, chosen in sides.items():
        open_or_create(out / side, LAYOUTS, note)
        numbers = [pair_number(entry, draw) for entry in chosen for draw in draws]
        with Bar(console=console) as bar:
            task = bar.add_task(f"simulate {side}", total=len(numbers))
            for _ in generate(out / side, numbers, partial(make_pair, root=stills), LAYOUTS, processes):
                bar.advance(task)
        console.print(f"{len(numbers)} pairs of {len(chosen)} stills in {out / side}")
