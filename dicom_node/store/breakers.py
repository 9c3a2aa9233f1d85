"""The circuit breakers, one row for each destination that ever failed."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Connection, bindparam, case, delete, insert, select, update

from dicom_node.core.breaker import Breaker, BreakerState
from dicom_node.core.errors import AWAY_CODES, TROUBLE_CODES
from dicom_node.core.job import JobKind, JobState
from dicom_node.store.ready import Ready
from dicom_node.store.schema import breakers, jobs

_CARRIED = (JobKind.DELIVER, JobKind.CONFIRM)
_BREAKER = Ready(
    select(
        breakers.c.state,
        breakers.c.failures,
        breakers.c.pauses,
        breakers.c.since,
        breakers.c.next_try_at,
        breakers.c.kind,
        breakers.c.error_code,
        breakers.c.error_text,
    ).where(breakers.c.destination == bindparam("destination"))
)
"""Compiled once: asked before and after everything that a destination is asked, and mostly there is none."""


def load_breaker(conn: Connection, destination: str) -> Breaker:
    """The breaker of a destination as it was saved last."""
    row = _BREAKER.row(conn, {"destination": destination})
    if row is None:
        return Breaker()
    state, failures, pauses, since, next_try_at, kind, error_code, error_text = row
    return Breaker(
        state=BreakerState(state),
        failures=failures,
        pauses=pauses,
        since=since,
        next_try_at=next_try_at,
        kind=kind and JobKind(kind),
        error_code=error_code,
        error_text=error_text,
    )


def save_breaker(conn: Connection, destination: str, breaker: Breaker) -> None:
    """Replace what is kept about a destination."""
    conn.execute(delete(breakers).where(breakers.c.destination == destination))
    if breaker != Breaker():
        conn.execute(insert(breakers).values(destination=destination, **asdict(breaker)))


def let_go(conn: Connection, destination: str, *, attempts_back: bool) -> None:
    """Make due at once whatever waits because the destination failed, and nothing else.

    attempts_back  it is back: what was tried while it was away gets all its attempts again. An attempt
                   that ended with the object in hand still counts, since the object may be what it
                   cannot stand.
    """
    attempts = case((jobs.c.error_code.in_(AWAY_CODES), 0), else_=jobs.c.attempts)
    conn.execute(
        update(jobs)
        .where(jobs.c.lane == destination, jobs.c.kind.in_(_CARRIED))
        .where(jobs.c.state == JobState.WAITING, jobs.c.error_code.in_(TROUBLE_CODES))
        .values(not_before=None, **({"attempts": attempts} if attempts_back else {}))
    )


def waits(conn: Connection, destination: str, kind: JobKind) -> bool:
    """Is there a waiting job of this kind for the destination?"""
    query = select(jobs.c.id).where(
        jobs.c.lane == destination, jobs.c.kind == kind, jobs.c.state == JobState.WAITING
    )
    return conn.scalar(query.limit(1)) is not None
