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
_BREAKER = select(breakers).where(breakers.c.destination == bindparam("destination"))
_IS_KNOWN = Ready(select(breakers.c.failures).where(breakers.c.destination == bindparam("destination")))
"""Compiled once: it is asked before and after everything that a destination is asked, and mostly says no."""


def load_breaker(conn: Connection, destination: str) -> Breaker:
    """The breaker of a destination as it was saved last."""
    if _IS_KNOWN.run(conn, {"destination": destination}).fetchone() is None:
        return Breaker()
    row = conn.execute(_BREAKER, {"destination": destination}).one()
    return Breaker(
        state=BreakerState(row.state),
        failures=row.failures,
        pauses=row.pauses,
        since=row.since,
        next_try_at=row.next_try_at,
        kind=row.kind and JobKind(row.kind),
        error_code=row.error_code,
        error_text=row.error_text,
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
