"""audit: what was recorded, and the proof that it is what was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from dicom_node.cli.access import actor as actor_of
from dicom_node.cli.access import permit
from dicom_node.cli.console import (
    DEFAULT_CONFIG,
    EXIT_INCOMPLETE,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    Marked,
    config_or_exit,
    leave,
    out,
    show_json,
    show_table,
)
from dicom_node.config import Config
from dicom_node.core.access import Action
from dicom_node.telemetry.audit_chain import Record
from dicom_node.telemetry.audit_log import AuditLog
from dicom_node.telemetry.audit_message import (
    AuditEvent,
    AuditKind,
    ObjectKind,
    Outcome,
    Thing,
    from_xml,
)

audit_app = typer.Typer(help="Read the audit trail, and prove that nobody changed it.", no_args_is_help=True)

_OUTCOMES = {
    Outcome.SUCCESS: Marked("[green]success[/]"),
    Outcome.MINOR: Marked("[yellow]minor[/]"),
    Outcome.SERIOUS: Marked("[red]serious[/]"),
    Outcome.MAJOR: Marked("[bold red]MAJOR[/]"),
}

_SPAN = re.compile(r"(?P<count>\d+)(?P<unit>[smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@audit_app.command()
def verify(
    head: Annotated[
        str | None, typer.Option(help="Hash of a record, noted elsewhere (log, collector): it must be there.")
    ] = None,
    begin: Annotated[
        str | None, typer.Option(help="Hash of the last record of older files that were moved away.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """Find any record that was changed, removed, inserted, moved or cut off; then the exit status is 1."""
    settings = config_or_exit(config)
    permit(settings, Action.READ_AUDIT)
    audit = _log(settings)
    verdict = audit.verify(head=_hash("--head", head), begin=_hash("--begin", begin))
    if json_:
        show_json(verdict)
    else:
        for note in verdict.notes:
            out.print(f"[yellow]note[/] {note}", soft_wrap=True)
        if verdict.problem:
            out.print(f"[bold red]NOT INTACT[/] {verdict.problem}", soft_wrap=True)
            out.print(f"records {verdict.first} to {verdict.last.number} before it are intact")
        else:
            out.print(f"[green]intact[/] records {verdict.first} to {verdict.last.number}, nothing missing")
        out.print(f"last hash {verdict.last.hash}", soft_wrap=True)
    if verdict.problem:
        raise typer.Exit(EXIT_INCOMPLETE)


@audit_app.command(name="list")
def list_records(
    since: Annotated[
        str, typer.Option(help="From this time (2026-01-31T12:00), or this long ago (2h, 7d).")
    ] = "7d",
    kind: Annotated[list[AuditKind] | None, typer.Option(help="Only of this kind; may be repeated.")] = None,
    study: Annotated[
        str | None, typer.Option("--study", "-s", help="Only of this Study Instance UID.")
    ] = None,
    who: Annotated[str | None, typer.Option(help="Only with this person, AE title or address.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many, the newest.")] = 100,
    xml: Annotated[
        bool, typer.Option("--xml", help="The DICOM audit messages themselves, one a line.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """Show who did what, and when; the newest last."""
    from dicom_node.node.people import audit_of
    from dicom_node.node.values import now

    settings = config_or_exit(config)
    person = permit(settings, Action.READ_AUDIT)
    audit = _log(settings)
    begin = _since(since)
    found: list[tuple[Record, AuditEvent]] = []
    for record, event in _events(audit):
        if event.at < begin or (kind and event.kind not in kind):
            continue
        if study is not None and study not in {t.id for t in event.things if t.kind is ObjectKind.STUDY}:
            continue
        if who is not None and who not in {w for a in event.actors for w in (a.name, a.address, a.also)}:
            continue
        found.append((record, event))
    found = found[-limit:]
    # PS3.15 A.5.3.2: that somebody reads the trail is itself an event.
    used = Thing(ObjectKind.AUDIT_LOG, audit.folder.as_uri())
    audit_of(settings).record_once(
        AuditEvent(AuditKind.AUDIT_LOG_USED, now(), (actor_of(person),), (used,)), timedelta(minutes=10)
    )
    if xml:
        for record, _ in found:
            typer.echo(record.message)
    elif json_:
        show_json([{"number": r.number, "hash": r.hash, "event": e} for r, e in found])
    else:
        show_table(
            f"Audit trail since {begin:%Y-%m-%d %H:%M:%SZ}",
            ("number", "at", "what", "outcome", "who", "about", "words"),
            (
                (
                    record.number,
                    event.at,
                    event.kind.replace("-", " "),
                    _OUTCOMES[event.outcome],
                    _who(event),
                    "; ".join(_about(thing) for thing in event.things),
                    event.words,
                )
                for record, event in found
            ),
        )


def _log(settings: Config) -> AuditLog:
    from dicom_node.node.people import audit_log_of

    audit = audit_log_of(settings)
    if not audit.segments():
        leave(f"{audit.folder}: there is no audit trail yet; `emode serve` begins it", EXIT_UNREACHABLE)
    return audit


def _events(audit: AuditLog) -> Iterator[tuple[Record, AuditEvent]]:
    for record, _ in audit.records():
        try:
            yield record, from_xml(record.message)
        except ValueError:  # written by another version; verify still proves it
            continue


def _who(event: AuditEvent) -> str:
    """`PACS@10.1.2.3 -> EMODE`: who began it comes first."""
    first = sorted(event.actors, key=lambda actor: not actor.requestor)
    return " -> ".join(
        actor.name
        + (f"@{actor.address}" if actor.address else "")
        + (f" ({actor.also})" if actor.also else "")
        for actor in first
    )


def _about(thing: Thing) -> str:
    count = sum(n for _, n in thing.instances)
    counted = f", {count} instance(s)" if count else ""
    details = "".join(f", {name} {value}" for name, value in thing.details)
    return f"{thing.kind} {thing.id}{counted}{details}"


def _since(text: str) -> datetime:
    span = _SPAN.fullmatch(text)
    if span:
        return datetime.now(UTC) - timedelta(seconds=int(span["count"]) * _UNITS[span["unit"]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        leave(f"--since {text!r}: write 2026-01-31, 2026-01-31T12:00, or 30m, 2h, 7d", EXIT_USAGE)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _hash(option: str, text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9a-f]{64}", text):
        leave(f"{option} {text!r}: a hash has 64 digits 0-9 a-f", EXIT_USAGE)
    return text
