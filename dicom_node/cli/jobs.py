"""jobs: list, show, retry and cancel, one by one or by what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from dicom_node.cli.access import permit, record_operation
from dicom_node.cli.console import (
    DEFAULT_CONFIG,
    EXIT_INCOMPLETE,
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    LimitOption,
    StudyOption,
    config_or_exit,
    leave,
    marked,
    opened,
    out,
    show_json,
    show_table,
)
from dicom_node.config import Config
from dicom_node.core.access import Action, Person
from dicom_node.core.errors import NodeError, by_code
from dicom_node.core.job import JobKind, JobState
from dicom_node.store.operator import cancel_job, retry_job
from dicom_node.store.overview import JobFilter, ReasonLine, job_history, job_lines, reason_lines
from dicom_node.store.process import Bells
from dicom_node.telemetry.audit_message import AuditKind, ObjectKind, Thing

jobs_app = typer.Typer(help="List, show, retry and cancel jobs.", no_args_is_help=True)

StateOption = Annotated[
    list[JobState] | None,
    typer.Option(help="Only in this state; may be repeated. Default: all that are not done."),
]
KindOption = Annotated[
    list[JobKind] | None,
    typer.Option(help="Only of this kind; may be repeated."),
]
LaneOption = Annotated[
    str | None,
    typer.Option("--destination", "--lane", "-d", help="Only for this destination; images: the worker's."),
]
ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", "-r", help="Only with this error code, from `emode jobs list --by-reason`."),
]
FailedOption = Annotated[bool, typer.Option("--failed", help="All failed jobs.")]
JobsArgument = Annotated[list[int] | None, typer.Argument(help="Job numbers.")]

_LINES_AT_MOST = 20


@jobs_app.command(name="list")
def list_jobs(
    state: StateOption = None,
    kind: KindOption = None,
    lane: LaneOption = None,
    study: StudyOption = None,
    reason: ReasonOption = None,
    by_reason: Annotated[
        bool, typer.Option("--by-reason", help="Count them by error, with what to do about each.")
    ] = False,
    limit: LimitOption = 100,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """List jobs, the newest first, or count them by reason."""
    from dicom_node.node.values import layout_of

    states = state or [s for s in JobState if s is not JobState.DONE]
    wanted = JobFilter(states, kind or (), lane, study, reason)
    settings = config_or_exit(config)
    permit(settings, Action.VIEW_JOBS)
    with opened(layout_of(settings).database) as database, database.read() as conn:
        if by_reason:
            reasons = reason_lines(conn, wanted)
        else:
            lines = job_lines(conn, wanted, limit=limit)
    if by_reason:
        _show_reasons(reasons, json_=json_)
        return
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
    from dicom_node.node.values import layout_of

    settings = config_or_exit(config)
    permit(settings, Action.VIEW_JOBS)
    with opened(layout_of(settings).database) as database, database.read() as conn:
        try:
            line, events = job_history(conn, job)
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
    jobs: JobsArgument = None,
    failed: FailedOption = False,
    lane: LaneOption = None,
    study: StudyOption = None,
    reason: ReasonOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Start failed jobs again, with all their attempts; parked results are sent again.

    By number (cancelled ones too), or all failed ones that fit every condition given.
    """
    settings = config_or_exit(config)
    who = permit(settings, Action.RETRY_JOB)
    wanted = JobFilter([JobState.FAILED], (), lane, study, reason)
    chosen = _chosen(settings, jobs, wanted, everything=failed)
    _for_each(settings, who, chosen, retry_job, AuditKind.JOB_RETRIED, "waiting again")


@jobs_app.command()
def cancel(
    jobs: JobsArgument = None,
    failed: FailedOption = False,
    lane: LaneOption = None,
    study: StudyOption = None,
    reason: ReasonOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do it; without, the jobs that fit are only counted.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """End jobs for good: by number, or all unfinished ones that fit every condition given."""
    settings = config_or_exit(config)
    who = permit(settings, Action.CANCEL_JOB)
    alive = [JobState.HELD, JobState.WAITING, JobState.RUNNING, JobState.FAILED]
    wanted = JobFilter([JobState.FAILED] if failed else alive, (), lane, study, reason)
    chosen = _chosen(settings, jobs, wanted, everything=failed)
    if not jobs and chosen and not yes:
        leave(f"{_jobs(len(chosen))} would be ended for good; nothing was done. --yes does it", EXIT_USAGE)
    _for_each(settings, who, chosen, cancel_job, AuditKind.JOB_CANCELLED, "cancelled")


def _chosen(settings: Config, jobs: list[int] | None, wanted: JobFilter, *, everything: bool) -> list[int]:
    """The jobs named, or those that fit; leaves if nothing says which."""
    from dicom_node.node.values import layout_of

    conditions = bool(wanted.lane or wanted.study or wanted.reason or everything)
    if jobs and conditions:
        leave("give job numbers or conditions, not both", EXIT_USAGE)
    if jobs:
        return jobs
    if not conditions:
        leave(
            "say which jobs: numbers, or --destination, --study, --reason, --failed; "
            "`emode jobs list --by-reason` shows what there is",
            EXIT_USAGE,
        )
    with opened(layout_of(settings).database) as database, database.read() as conn:
        lines = job_lines(conn, wanted, limit=None)
        _show_reasons(reason_lines(conn, wanted), json_=False)
    return [line.id for line in lines][::-1]


def _show_reasons(reasons: Sequence[ReasonLine], *, json_: bool) -> None:
    facts = [(line, *_meaning(line)) for line in reasons]
    if json_:
        show_json(
            [
                {"line": line, "sentence": sentence, "next_step": next_step}
                for line, sentence, next_step in facts
            ]
        )
        return
    show_table(
        "Jobs by reason",
        ("jobs", "kind", "lane", "state", "reason", "what it means", "what to do", "the newest says"),
        (
            (
                line.count,
                line.kind,
                line.lane,
                marked(line.state),
                line.error_code,
                sentence,
                next_step,
                line.example,
            )
            for line, sentence, next_step in facts
        ),
    )


def _meaning(line: ReasonLine) -> tuple[str, str]:
    """Sentence and next step of a reason."""
    if line.error_code is None:
        return "Nothing went wrong with it.", "none"
    kind = by_code(line.error_code)
    if kind is None:
        return (line.example or "").split(":")[0], NodeError.next_step
    return (kind.__doc__ or "").strip().splitlines()[0], kind.next_step


_Change = Callable[[Connection, int, datetime, str], tuple[str, str]]


def _for_each(
    settings: Config,
    who: Person,
    numbers: Sequence[int],
    change: _Change,
    kind: AuditKind,
    words: str,
) -> None:
    from dicom_node.node.values import layout_of, now

    by = f"operator {who.name}"
    changed: list[Thing] = []
    lanes: set[tuple[str, str]] = set()
    bad = 0
    with opened(layout_of(settings).database) as database:
        for number in numbers:
            try:
                with database.write() as conn:
                    lanes.add(change(conn, number, now(), by))
                changed.append(Thing(ObjectKind.JOB, str(number)))
                if len(numbers) <= _LINES_AT_MOST:
                    out.print(f"job {number}: {words}")
            except NodeError as error:
                bad += 1
                out.print(f"job {number}: {error}", markup=False)
    record_operation(settings, who, kind, changed)
    bells = Bells(layout_of(settings).bells)
    for job_kind, lane in lanes:
        bells.ring(job_kind, lane)
    if not numbers:
        out.print("no job fits; nothing was done")
    elif len(numbers) > 1:
        out.print(f"{_jobs(len(numbers) - bad)} {words}" + (f", {bad} could not be" if bad else ""))
    if bad:
        raise typer.Exit(EXIT_INCOMPLETE)


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
