"""How commands speak: tables for people, JSON for programs, one exit status for each kind of end."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_node.config import Config, load_config
from dicom_node.core.errors import NodeError
from dicom_node.store.database import Database, open_existing_database
from dicom_node.trust.certificates import Expiry

EXIT_INCOMPLETE = 1
"""The command ran, but not everything succeeded: an object was refused, a job is in no state for it."""
EXIT_USAGE = 2
"""Wrong arguments, or a configuration that cannot be used."""
EXIT_UNREACHABLE = 3
"""A peer, or a file, could not be reached."""

out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config", "-c", envvar="EMODE_CONFIG", help="Configuration file.", dir_okay=False, show_default=True
    ),
]
StudyOption = Annotated[
    str | None,
    typer.Option("--study", "-s", help="Study Instance UID or accession number."),
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many lines.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print facts as JSON instead of a table.")]

DEFAULT_CONFIG = Path("deploy/emode.yaml")


def config_or_exit(path: Path) -> Config:
    """Load the configuration, or print every problem and leave with EXIT_USAGE."""
    if path == DEFAULT_CONFIG and not path.exists():
        leave("no configuration is named: give --config FILE, or set EMODE_CONFIG", EXIT_USAGE)
    try:
        settings = load_config(path)
    except NodeError as error:
        leave(error, EXIT_USAGE)
    _require_trusted(path, settings)
    return settings


def _require_trusted(path: Path, settings: Config) -> None:
    """Behind sudo, leave unless the configuration is the administrators': it says who may do what.

    Otherwise a copy without `access` would make an admin of whoever may type `sudo emode`.
    """
    if os.getuid() != 0 or os.environ.get("SUDO_UID", "0") == "0":
        return
    node = settings.data_dir.stat().st_uid if settings.data_dir.exists() else 0
    facts = path.stat()
    if facts.st_uid not in (0, node) or facts.st_mode & 0o022:
        leave(
            f"{path}: behind sudo a configuration has to belong to root or the node's account, and nobody "
            "else may write to it",
            EXIT_USAGE,
        )


def require_destination(settings: Config, name: str) -> None:
    """Leave with the names there are, unless this is one of them."""
    if name not in settings.destinations:
        names = ", ".join(settings.destinations)
        leave(f"{name!r} is not a destination; defined are: {names}", EXIT_USAGE)


def leave(error: NodeError | str, status: int) -> NoReturn:
    """Print what went wrong and end the command."""
    print_error(error)
    raise typer.Exit(status)


def print_error(error: NodeError | str) -> None:
    """Print what went wrong."""
    err.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)


def show_json(value: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(_plain(value), indent=2))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a cell may carry rich markup only if it is made by `marked`."""
    table = Table(title=title, title_justify="left", header_style="bold", expand=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.text if isinstance(cell, Marked) else escape(_text(cell)) for cell in row))
    (Console(width=200) if not out.is_terminal else out).print(table)


@dataclasses.dataclass(frozen=True, slots=True)
class Marked:
    """A cell whose text is rich markup."""

    text: str


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    """The database of a node that may be running, or leave with EXIT_UNREACHABLE if there is none."""
    if not path.exists():
        leave(f"{path}: there is no database yet; `emode serve` makes it", EXIT_UNREACHABLE)
    database = open_existing_database(path)
    try:
        yield database
    finally:
        database.close()


CERTIFICATE_COLUMNS = ("ends", "days left", "certificate", "file", "")


def certificate_row(expiry: Expiry) -> tuple[object, ...]:
    """One certificate in a table of CERTIFICATE_COLUMNS."""
    return (
        expiry.ends,
        expiry.days_left,
        expiry.use,
        expiry.path,
        marked(expiry.standing.value.replace("-", " ")),
    )


_COLOURS = {
    "expired": "red",
    "not yet valid": "red",
    "ends soon": "yellow",
    "good": "green",
    "confirmed": "green",
    "done": "green",
    "accepted": "cyan",
    "skipped": "yellow",
    "failed": "red",
    "parked": "red",
    "running": "blue",
    "yes": "green",
    "NO": "red",
}


def marked(state: str, remark: str = "") -> Marked:
    """A state in its colour, with a remark behind it."""
    colour = _COLOURS.get(state)
    text = f"[{colour}]{escape(state)}[/]" if colour else escape(state)
    return Marked(f"{text}, {escape(remark)}" if remark else text)


def seconds_between(start: datetime | None, end: datetime | None) -> str:
    """Elapsed seconds for a table, or a dash."""
    return f"{(end - start).total_seconds():.2f}" if start and end else "-"


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, float):
        return f"{value:.2f}"
    return str(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        facts = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        stage = getattr(value, "stage", None)
        return facts | ({"stage": stage} if stage is not None else {})
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value
