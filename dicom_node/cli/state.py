"""status, studies, jobs: what a node has done, is doing, and cannot do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from dicom_node.cli.console import (
    DEFAULT_CONFIG,
    EXIT_INCOMPLETE,
    EXIT_UNREACHABLE,
    ConfigOption,
    JsonOption,
    config_or_exit,
    leave,
    marked,
    operator_name,
    out,
    seconds_between,
    show_json,
    show_table,
)
from dicom_node.config import Config
from dicom_node.core.errors import NodeError
from dicom_node.core.job import JobKind, JobState
from dicom_node.store import overview
from dicom_node.store.database import Database, open_existing_database
from dicom_node.store.jobs import unfinished_lanes
from dicom_node.store.operator import cancel_job, retry_job
from dicom_node.store.process import Bells, is_held
from dicom_node.supervise import Role

jobs_app = typer.Typer(help="List, show, retry and cancel jobs.", no_args_is_help=True)

StudyOption = Annotated[
    str | None,
    typer.Option("--study", "-s", help="Study Instance UID or accession number."),
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many lines.")]


def status(
    study: StudyOption = None,
    limit: LimitOption = 50,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """Show each image's way through the node, with times: the answer to "where is my study?"."""
    settings = config_or_exit(config)
    with _opened(settings) as database, database.read() as conn:
        counts = overview.counts(conn)
        lines = overview.image_lines(conn, study=study, limit=limit)
        lanes = unfinished_lanes(conn)
    from dicom_node.node import layout_of

    layout = layout_of(settings)
    roles = {role.value: is_held(layout.lock(role)) for role in Role}
    known = set(settings.destinations)
    forsaken = sorted({lane for kind, lane in lanes if kind is not JobKind.INFER} - known)
    if json_:
        show_json({"processes": roles, "counts": counts, "not_configured": forsaken, "images": lines})
        return
    out.print(
        "  ".join(
            f"{role} {'[green]running[/]' if up else '[red]NOT RUNNING[/]'}" for role, up in roles.items()
        )
    )
    for name in forsaken:
        out.print(f"[red]destination {name} is no longer configured and has unfinished deliveries[/]")
    for what, states in counts.items():
        text = ", ".join(f"{count} {state}" for state, count in states.items())
        out.print(f"{what}: {text or ('none unfinished' if what == 'jobs' else 'none')}")
    show_table("Images, newest last", IMAGE_COLUMNS, (row for line in lines for row in image_rows(line)))


IMAGE_COLUMNS = (
    "received",
    "from",
    "route",
    "image",
    "stage",
    "result UID, or why there is none",
    "waited s",
    "read + GAN + compose + keep s",
    "destination",
    "accepted after s",
    "confirmed after s",
)


def image_rows(line: overview.ImageLine) -> Iterator[tuple[object, ...]]:
    """One line for each result and destination of an image, or one that says why there is none."""
    head = (
        line.received_at,
        line.calling_ae_title,
        line.route,
        line.instance_number if line.instance_number is not None else f"…{line.sop_instance_uid[-8:]}",
        marked(line.stage),
    )
    if not line.results:
        why = f"{line.skip_code}: {line.skip_sentence}" if line.skip_code else (line.job_error or "")
        yield (*head, why, *("-",) * 5)
    for result in line.results:
        steps = (result.steps.get(step, 0.0) for step in ("read", "infer", "compose", "keep"))
        times = " + ".join(f"{seconds:.3f}" for seconds in steps)
        for way in result.deliveries:
            words = f" ({way.words})" if way.state == "parked" else ""
            # Results of an image that was sent anew, and is skipped now, are still in the archive.
            words += f"; now {line.skip_code}" if line.skip_code else ""
            yield (
                *head,
                result.sop_instance_uid,
                seconds_between(line.received_at, line.claimed_at),
                times,
                f"{way.destination}{words}",
                seconds_between(line.received_at, way.accepted_at),
                seconds_between(line.received_at, way.confirmed_at),
            )


def studies(
    study: StudyOption = None,
    limit: LimitOption = 20,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """List studies, the latest first."""
    with _opened(config_or_exit(config)) as database, database.read() as conn:
        lines = overview.study_lines(conn, study=study, limit=limit)
    if json_:
        show_json(lines)
        return
    show_table(
        "Studies",
        (
            "last image",
            "accession",
            "study",
            "state",
            "images",
            "skipped",
            "failed",
            "results",
            "confirmed",
            "parked",
        ),
        (
            (
                line.last_received_at,
                line.accession_number,
                line.study_instance_uid,
                marked(line.state),
                line.images,
                line.skipped,
                line.failed,
                line.results,
                line.confirmed,
                line.parked,
            )
            for line in lines
        ),
    )


@jobs_app.command(name="list")
def list_jobs(
    state: Annotated[
        list[JobState] | None,
        typer.Option(help="Only in this state; may be repeated. Default: all that are not done."),
    ] = None,
    kind: Annotated[
        list[JobKind] | None,
        typer.Option(help="Only of this kind; may be repeated."),
    ] = None,
    lane: Annotated[
        str | None,
        typer.Option(help="Only of this lane: a destination's name, or images."),
    ] = None,
    study: StudyOption = None,
    limit: LimitOption = 100,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """List jobs, the newest first."""
    wanted = state or [s for s in JobState if s is not JobState.DONE]
    with _opened(config_or_exit(config)) as database, database.read() as conn:
        lines = overview.job_lines(conn, states=wanted, kinds=kind or (), lane=lane, study=study, limit=limit)
    if json_:
        show_json(lines)
        return
    show_table(
        "Jobs",
        ("job", "kind", "lane", "state", "attempts", "next try", "image", "error"),
        (
            (
                line.id,
                line.kind,
                line.lane,
                marked(line.state),
                f"{line.attempts}/{line.max_attempts}",
                line.not_before if line.state == JobState.WAITING else None,
                f"…{line.sop_instance_uid[-12:]}",
                line.error_text,
            )
            for line in lines
        ),
    )


@jobs_app.command()
def show(
    job: Annotated[int, typer.Argument(help="The job's number.")],
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """Show one job and everything that happened to it."""
    with _opened(config_or_exit(config)) as database, database.read() as conn:
        try:
            line, events = overview.job_history(conn, job)
        except NodeError as error:
            leave(error, EXIT_INCOMPLETE)
    if json_:
        show_json({"job": line, "events": events})
        return
    show_table(
        f"Job {job}: {line.kind} {line.lane}, {line.state}, image {line.sop_instance_uid}",
        ("at", "event", "state", "detail"),
        ((event.at, event.event, marked(event.state), event.detail) for event in events),
    )


@jobs_app.command()
def retry(
    jobs: Annotated[list[int] | None, typer.Argument(help="Job numbers.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed jobs.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Start failed or cancelled jobs again, with all their attempts; parked results are sent again."""
    settings = config_or_exit(config)
    chosen = list(jobs or ())
    if failed:
        with _opened(settings) as database, database.read() as conn:
            lines = overview.job_lines(conn, states=[JobState.FAILED], limit=1_000_000)
        chosen += [line.id for line in lines]
    _for_each(settings, chosen, retry_job, "waiting again")


@jobs_app.command()
def cancel(
    jobs: Annotated[list[int], typer.Argument(help="Job numbers.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """End jobs for good."""
    _for_each(config_or_exit(config), jobs, cancel_job, "cancelled")


_Change = Callable[[Connection, int, datetime, str], tuple[str, str]]


def _for_each(settings: Config, numbers: list[int], change: _Change, words: str) -> None:
    from dicom_node.node import layout_of, now

    by = operator_name()
    if not numbers:
        out.print("nothing to do")
    lanes: set[tuple[str, str]] = set()
    bad = False
    with _opened(settings) as database:
        for number in numbers:
            try:
                with database.write() as conn:
                    lanes.add(change(conn, number, now(), by))
                out.print(f"job {number}: {words}")
            except NodeError as error:
                bad = True
                out.print(f"job {number}: {error}", markup=False)
    bells = Bells(layout_of(settings).bells)
    for kind, lane in lanes:
        bells.ring(kind, lane)
    if bad:
        raise typer.Exit(EXIT_INCOMPLETE)


@contextmanager
def _opened(settings: Config) -> Iterator[Database]:
    from dicom_node.node import layout_of

    path = layout_of(settings).database
    if not path.exists():
        leave(f"{path}: there is no database yet; `emode serve` makes it", EXIT_UNREACHABLE)
    database = open_existing_database(path)
    try:
        yield database
    finally:
        database.close()
