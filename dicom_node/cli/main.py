"""`emode`: run a node, see what it does, try things offline."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

from dicom_node.cli import destinations, files, jobs, peers, service, state
from dicom_node.cli.audit import audit_app
from dicom_node.cli.console import EXIT_INCOMPLETE, EXIT_UNREACHABLE, err
from dicom_node.core.errors import NodeError

EPILOG = """
Exit status: 0 all went well; 1 it ran, but not everything succeeded; 2 wrong arguments or configuration;
3 a peer or file could not be reached; 4 `serve` cannot run here: another node does, or the database is newer.
"""

app = typer.Typer(
    name="emode",
    help="DICOM node that turns breast ultrasound B-mode images into synthetic strain elastography. "
    "Synthetic, not measured; for research use.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals can hold patient data
)
app.command()(service.serve)
app.command()(service.check)
app.command()(service.schema)
app.command()(service.demo)
app.command()(peers.echo)
app.command()(peers.probe)
app.command()(peers.send)
app.command(name="apply")(files.apply_model)
app.command()(files.inspect)
app.command()(state.status)
app.command()(state.studies)
app.add_typer(jobs.jobs_app, name="jobs")
app.add_typer(destinations.destinations_app, name="destinations")
app.add_typer(audit_app, name="audit")


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Handle options that stand before the command."""
    if show_version:
        from dicom_node.node.values import software_version

        typer.echo(software_version())
        raise typer.Exit


def main() -> None:
    """Entry point of the `emode` script."""
    os.umask(0o077)  # whatever a command makes can hold patient data: for this user alone
    try:
        app()
    except NodeError as error:
        err.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(EXIT_INCOMPLETE)
    except PermissionError as error:
        # The data folder is closed to everybody but the node's account: the usual case of a forgotten sudo.
        words = f"you may not use {error.filename}; run this as the node's account: sudo emode ..."
        err.print(f"[bold red]error[/] {escape(words)}", soft_wrap=True)
        sys.exit(EXIT_UNREACHABLE)
