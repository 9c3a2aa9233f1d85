"""`emode-train prepare`: pairs from a hospital's own dual-view screens."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from training.cli.app import Out, Processes, app, console
from training.pairs.split import Shares
from training.screens.prepare import SHARES, beside, finish, plan
from training.screens.prepare import prepare as prepare_screens
from training.screens.reasons import Reason
from training.screens.record import Record
from training.screens.settings import site_of
from training.screens.tables import LUTS


@app.command()
def prepare(
    screens: Annotated[
        Path,
        typer.Argument(help="Folder of dual-view stills, DICOM or PNG, searched with all folders below."),
    ],
    out: Out,
    polarity: Annotated[
        str | None,
        typer.Option(
            help="What the top (or right) end of the colour bar means: soft-high or hard-high. Scanners "
            "differ, so there is no default. A screens.yaml beside the screens wins over this and the next."
        ),
    ] = None,
    lut: Annotated[
        str | None,
        typer.Option(help=f"Colour table: {', '.join(LUTS)}. Without: the bar of each screen."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="What tells whose image it is, so that no patient lies on two sides of the split: patient "
            "(PatientID; DICOM only), folder (the first one below SCREENS), or a regular expression for the "
            "path below SCREENS whose first (group) names the patient. Without: patient."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Quality, 0 to 1, under which a pair is left out. Without: 0.5."),
    ] = None,
    shares: Annotated[
        tuple[float, float],
        typer.Option(help="Shares of patients for training and validation; the rest is for the test."),
    ] = (SHARES.training, SHARES.validation),
    key: Annotated[
        Path | None,
        typer.Option(help="File of the secret behind the pseudonyms, made if absent. Without: OUT.key."),
    ] = None,
    processes: Processes = None,
) -> None:
    """Read training pairs off dual-view screens: B-mode beside a colour elastogram.

    Each screen becomes a pair in OUT/training, OUT/validation or OUT/test, or is listed in OUT/manifest.json
    with the reason why not. Look through OUT/sheets before you train. Resumes.
    """
    site = site_of(polarity=polarity, lut=lut, group=group, threshold=threshold)
    tasks = plan(screens, out, site, _shares(shares), key or beside(out, ".key"))
    records: list[Record] = []
    with Bar(console=console) as bar:
        task = bar.add_task("prepare", total=len(tasks))
        for record in prepare_screens(tasks, processes):
            records.append(record)
            bar.advance(task)
    gone = finish(out, tasks, records)
    Console().print(table_of(records))
    if gone:
        console.print(
            f"{gone} screens of an earlier call are no longer in {screens}; their pairs were removed"
        )
    console.print(
        f"look through {out / 'sheets'} before you train; which file is which: {beside(out, '.sources.csv')}"
    )


def _shares(shares: tuple[float, float]) -> Shares:
    try:
        return Shares(*shares)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shares") from None


def table_of(records: list[Record]) -> Table:
    """Count screens by what became of them."""
    table = Table(title=f"{len(records)} screens")
    for column in ("screens", "patients", "", "what it means"):
        table.add_column(column)
    named = [record.side if record.reason is None else record.reason for record in records]
    for name, count in Counter(named).most_common():
        patients = {r.group for r, n in zip(records, named, strict=True) if n == name and r.group}
        meaning = Reason(name).sentence if name in list(Reason) else "pairs"
        table.add_row(str(count), str(len(patients)), str(name), meaning)
    return table
