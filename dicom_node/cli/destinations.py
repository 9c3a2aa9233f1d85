"""destinations: how each archive behaves, in one sentence, and trying one at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from dicom_node.cli.access import permit, record_operation
from dicom_node.cli.console import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    config_or_exit,
    opened,
    out,
    require_destination,
    show_json,
)
from dicom_node.core.access import Action
from dicom_node.core.breaker import Breaker, BreakerState
from dicom_node.core.job import JobKind
from dicom_node.store.operator import try_destination
from dicom_node.store.overview import DestinationLine, destination_lines
from dicom_node.store.process import Bells
from dicom_node.telemetry.audit_message import AuditKind, ObjectKind, Thing

destinations_app = typer.Typer(help="How each archive behaves; try one at once.", no_args_is_help=True)

_TROUBLE = {
    "destination-unreachable": "not reachable",
    "destination-rejected": "rejects our association",
    "association-unanswered": "gives no association",
    "destination-aborted": "aborts while we send",
    "destination-silent": "takes the association and does not answer",
    "destination-busy": "has no room, or cannot store at the moment",
}


@destinations_app.command(name="list")
def list_destinations(config: ConfigOption = DEFAULT_CONFIG, json_: JsonOption = False) -> None:
    """Say of each destination, in a sentence, how it is."""
    from dicom_node.node.values import layout_of, now

    settings = config_or_exit(config)
    permit(settings, Action.VIEW_JOBS)
    with opened(layout_of(settings).database) as database, database.read() as conn:
        lines = destination_lines(conn, list(settings.destinations))
    if json_:
        show_json(lines)
        return
    show_sentences(lines, now())


@destinations_app.command(name="try")
def try_(
    name: Annotated[str, typer.Argument(help="A destination's name from the configuration.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Send to a destination that is left alone now, not at its next try: one result, then all if it works."""
    from dicom_node.node.values import layout_of

    settings = config_or_exit(config)
    who = permit(settings, Action.SET_BREAKER)
    require_destination(settings, name)
    layout = layout_of(settings)
    with opened(layout.database) as database, database.write() as conn:
        state = try_destination(conn, name)
    tried = Thing(ObjectKind.DESTINATION, name)
    record_operation(settings, who, AuditKind.BREAKER_CHANGED, [tried], "to be tried at once")
    bells = Bells(layout.bells)
    for kind in (JobKind.DELIVER, JobKind.CONFIRM):
        bells.ring(kind, name)
    words = {
        BreakerState.OPEN: "is tried at once; `emode destinations list` shows how that went",
        BreakerState.HALF_OPEN: "is being tried already",
        BreakerState.CLOSED: "is not left alone; results go there as they come",
    }
    out.print(f"{name} {words[state]}", soft_wrap=True)


def show_sentences(lines: list[DestinationLine], now: datetime) -> None:
    """Print one sentence for each destination: green is well, yellow wants a look, red is down."""
    for line in lines:
        colour = "red" if line.breaker.failures else "yellow" if line.parked or line.warned else "green"
        out.print(f"{line.destination}: {sentence(line, now)}", style=colour, soft_wrap=True, markup=False)


def sentence(line: DestinationLine, now: datetime) -> str:
    """How a destination is, for somebody who was woken up: `not reachable since 03:12Z, 37 results wait`."""
    parts = [_health(line, now)]
    if line.waiting or line.breaker.failures:
        parts.append(_count(line.waiting, "waits", "wait"))
    if line.breaker.state is not BreakerState.CLOSED:
        parts.append(_next_try(line.breaker, line.waiting + line.unconfirmed, now))
    if line.unconfirmed:
        parts.append(f"{line.unconfirmed} stored and not confirmed")
    if line.parked:
        parts.append(f"{line.parked} parked (`emode jobs list --by-reason` says why)")
    if line.warned:
        parts.append(f"{line.warned} stored with a warning (`emode status` shows it)")
    return ", ".join(parts)


def _health(line: DestinationLine, now: datetime) -> str:
    breaker = line.breaker
    if breaker.failures:
        trouble = _TROUBLE.get(breaker.error_code or "", breaker.error_code or "fails")
        return f"{trouble} since {_clock_time(breaker.since or now, now)}"
    if line.last_stored_at is None:
        return "ok so far, nothing stored yet"
    return f"ok, last stored {_span(now - line.last_stored_at)} ago"


def _next_try(breaker: Breaker, waiting: int, now: datetime) -> str:
    if breaker.state is BreakerState.HALF_OPEN:
        return "being tried now"
    if breaker.next_try_at is not None and breaker.next_try_at > now:
        return f"next try in {_span(breaker.next_try_at - now)}"
    return "next try now" if waiting else "next try with the next result"


def _count(number: int, one: str, many: str) -> str:
    return "nothing waits" if not number else f"1 result {one}" if number == 1 else f"{number} results {many}"


def _span(time: timedelta) -> str:
    seconds = max(0, round(time.total_seconds()))
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86400} days"


def _clock_time(at: datetime, now: datetime) -> str:
    recent = now - at < timedelta(hours=20)
    return at.astimezone(UTC).strftime("%H:%MZ" if recent else "%Y-%m-%d %H:%MZ")
