"""The queue: every change of a job is one compare-and-set with one event row."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Update, bindparam, func, insert, or_, select, update

from dicom_node.core.errors import AttemptsExhausted, IllegalTransition, NoSuchJob, StaleLease
from dicom_node.core.job import JobEvent, JobKind, JobState, next_state, states_before
from dicom_node.store.ready import Ready
from dicom_node.store.schema import job_events, jobs

LONGEST_DELAY = timedelta(days=1)
"""No delay we set is longer; the configuration's caps stay below it."""

_CLOCK_SLACK = timedelta(seconds=2)
"""Time servers move a clock by less than this now and then."""

_MENDED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job in our hands until `lease_until`, unless we renew it."""

    id: int
    kind: JobKind
    lane: str
    image_id: int
    study_id: int
    delivery_id: int | None
    priority: int
    attempts: int
    max_attempts: int
    lease_token: str
    created_at: datetime
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is made of."""

    kind: JobKind
    lane: str
    priority: int
    study_id: int
    image_id: int
    max_attempts: int
    delivery_id: int | None = None
    not_before: datetime | None = None
    held: bool = False


_ADD_JOB = Ready(
    insert(jobs),
    "kind",
    "lane",
    "state",
    "priority",
    "study_id",
    "image_id",
    "delivery_id",
    "max_attempts",
    "not_before",
    "changed_at",
    "created_at",
)


class First(StrEnum):
    """Which of the jobs that are due are claimed before others."""

    URGENT = "urgent"
    """By priority, then by age."""
    OLDEST = "oldest"
    """By age alone."""
    RESTED = "rested"
    """What was never tried, or not for the longest time: an object that a destination cannot stand must not
    be its trial each time."""


# Statements of the hot ways are built once: SQLAlchemy takes longer to build one than SQLite to run it.
_ADD_JOBS = insert(jobs)
_ADD_EVENT = insert(job_events)
_WAITING: tuple[ColumnElement[bool], ...] = (
    jobs.c.kind == bindparam("kind"),
    jobs.c.lane == bindparam("lane"),
    jobs.c.state == JobState.WAITING,
)
_DUE = or_(
    jobs.c.not_before.is_(None),
    jobs.c.not_before <= bindparam("now"),
    # A time further away than any delay we set was written before the clock was set back.
    jobs.c.not_before > bindparam("horizon"),
)
_URGENT = (
    select(jobs)
    .where(*_WAITING, _DUE)
    .order_by(jobs.c.priority, jobs.c.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_DUE_FIRST = {
    First.URGENT: _URGENT,
    First.OLDEST: _URGENT.order_by(None).order_by(jobs.c.id),
    First.RESTED: _URGENT.order_by(None).order_by(
        jobs.c.claimed_at.asc().nulls_first(), jobs.c.priority, jobs.c.id
    ),
}
_ANY_DUE = Ready(select(jobs.c.id).where(*_WAITING, _DUE).limit(1))
_NEXT_TIME = select(func.min(jobs.c.not_before)).where(*_WAITING)


def enqueue(conn: Connection, job: NewJob, now: datetime) -> int:
    """Add a job; it exists when the caller's transaction commits."""
    job_id = _ADD_JOB.run(conn, _new_row(job, now)).lastrowid
    assert job_id is not None
    return job_id


def enqueue_all(conn: Connection, added: Sequence[NewJob], now: datetime) -> None:
    """Add jobs, as `enqueue` does, in one statement."""
    if added:
        conn.execute(_ADD_JOBS, [_new_row(job, now) for job in added])


def _new_row(job: NewJob, now: datetime) -> dict[str, Any]:
    return {
        "kind": job.kind,
        "lane": job.lane,
        "state": JobState.HELD if job.held else JobState.WAITING,
        "priority": job.priority,
        "study_id": job.study_id,
        "image_id": job.image_id,
        "delivery_id": job.delivery_id,
        "max_attempts": job.max_attempts,
        "not_before": job.not_before,
        "changed_at": now,
        "created_at": now,
    }


def claim(
    conn: Connection,
    kind: JobKind,
    lane: str,
    *,
    limit: int,
    owner: str,
    lease_s: float,
    now: datetime,
    retries_alone: bool = False,
    first: First = First.URGENT,
) -> list[ClaimedJob]:
    """Take up to `limit` jobs of a lane that are due, in the order of urgency, then age.

    retries_alone  a job that was tried before is taken by itself, so that one image which kills the
                   worker costs its neighbours one attempt and no more.
    first          which jobs are taken if there are more.
    """
    which = {"kind": kind, "lane": lane, "now": now, "limit": limit, "horizon": now + LONGEST_DELAY}
    due: Sequence[Row[Any]] = conn.execute(_DUE_FIRST[first], which).all()
    if retries_alone and any(row.attempts for row in due):
        fresh = [row for row in due if not row.attempts]
        due = due[:1] if due[0].attempts else fresh
    if not due:
        return []
    due = sorted(due, key=lambda row: (row.priority, row.id))
    tokens = [str(uuid.uuid4()) for _ in due]
    _move_all(
        conn,
        JobEvent.CLAIM,
        now,
        [
            _Move(
                row.id,
                {
                    "attempts": row.attempts + 1,
                    "lease_token": token,
                    "lease_until": now + timedelta(seconds=lease_s),
                    "owner": owner,
                    "claimed_at": now,
                },
                detail=owner,
            )
            for row, token in zip(due, tokens, strict=True)
        ],
    )
    return [_claimed(row, token, now) for row, token in zip(due, tokens, strict=True)]


def next_due(conn: Connection, kind: JobKind, lane: str, now: datetime) -> datetime | None:
    """When the next waiting job of a lane may be claimed, `now` if one may be; None if nothing waits."""
    which = {"kind": kind, "lane": lane, "now": now, "horizon": now + LONGEST_DELAY}
    if _ANY_DUE.run(conn, which).fetchone() is not None:
        return now
    later: datetime | None = conn.scalar(_NEXT_TIME, {"kind": kind, "lane": lane})
    return later


def unfinished_lanes(conn: Connection) -> list[tuple[JobKind, str]]:
    """Every lane that has work, whether or not anybody serves it."""
    alive = (JobState.HELD, JobState.WAITING, JobState.RUNNING)
    rows = conn.execute(select(jobs.c.kind, jobs.c.lane).where(jobs.c.state.in_(alive)).distinct())
    return [(JobKind(kind), lane) for kind, lane in rows]


def renew(conn: Connection, claimed: Sequence[ClaimedJob], until: datetime) -> None:
    """Keep jobs in hand for longer. A lease that is gone stays gone: finishing will say so."""
    if not claimed:
        return
    conn.execute(
        update(jobs)
        .where(jobs.c.id == bindparam("job"), jobs.c.lease_token == bindparam("token"))
        .values(lease_until=until),
        [{"job": job.id, "token": job.lease_token} for job in claimed],
    )


def anything_runs(conn: Connection) -> bool:
    """Is any job in somebody's hands?"""
    return conn.scalar(select(jobs.c.id).where(jobs.c.state == JobState.RUNNING).limit(1)) is not None


def confirm_leases(conn: Connection) -> dict[str, datetime]:
    """Every lease in force, token -> until; in a write transaction.

    A write although nothing changes: that it commits proves that whoever holds one could have renewed it.
    """
    running = jobs.c.state == JobState.RUNNING
    conn.execute(update(jobs).where(running).values(lease_until=jobs.c.lease_until))
    rows = conn.execute(select(jobs.c.lease_token, jobs.c.lease_until).where(running))
    return {row.lease_token: row.lease_until for row in rows}


def waits_from_the_future(conn: Connection, now: datetime) -> list[int]:
    """Waiting jobs whose time was set by a clock that has been set back since; so many at a time."""
    late = now + _CLOCK_SLACK
    return list(
        conn.scalars(
            select(jobs.c.id)
            .where(jobs.c.state == JobState.WAITING, jobs.c.not_before > late, jobs.c.changed_at > late)
            .limit(_MENDED_AT_ONCE)
        )
    )


def mend_waits(conn: Connection, now: datetime) -> int:
    """Let each of them wait from now on for as long as it was meant to; return how many there were."""
    ids = waits_from_the_future(conn, now)
    waits = select(jobs.c.id, jobs.c.not_before, jobs.c.changed_at).where(jobs.c.id.in_(ids))
    for row in conn.execute(waits).all():
        meant = max(row.not_before - row.changed_at, timedelta())
        conn.execute(update(jobs).where(jobs.c.id == row.id).values(not_before=now + meant, changed_at=now))
    return len(ids)


def finish(conn: Connection, job: ClaimedJob, now: datetime, detail: str | None = None) -> None:
    """The work is done; its effects are in the same transaction."""
    finish_all(conn, [(job, detail)], now)


def finish_all(conn: Connection, ended: Sequence[tuple[ClaimedJob, str | None]], now: datetime) -> None:
    """The work of these jobs is done, each with its detail; as `finish`, in two statements.

    Raises StaleLease if one of them is not in our hands any more; the caller has to undo the others then.
    """
    values = {"error_code": None, "error_text": None, "ended_at": now}
    moves = [_Move(job.id, values, job.lease_token, detail) for job, detail in ended]
    _move_all(conn, JobEvent.FINISH, now, moves)


def retry(
    conn: Connection,
    job: ClaimedJob,
    now: datetime,
    *,
    not_before: datetime | None,
    code: str,
    text: str,
    counted: bool = True,
) -> None:
    """The work failed for now; try again later.

    counted  False if the failure was not the job's: the attempt is given back.
    """
    values: dict[str, Any] = {"error_code": code, "error_text": text, "not_before": not_before}
    if not counted:
        values["attempts"] = job.attempts - 1
    _move(conn, job.id, JobEvent.RETRY, now, token=job.lease_token, values=values, detail=text)


def postpone(
    conn: Connection, job: ClaimedJob, now: datetime, *, until: datetime | None, counted: bool, text: str
) -> None:
    """The work waits for somebody outside: until this time, or until `wake`; None is "at once".

    counted  False if nothing was done this time: the attempt is given back.
    """
    values: dict[str, Any] = {"error_code": None, "error_text": text, "not_before": until}
    if not counted:
        values["attempts"] = job.attempts - 1
    _move(conn, job.id, JobEvent.POSTPONE, now, token=job.lease_token, values=values, detail=text)


def wake(conn: Connection, kind: JobKind, delivery_ids: Sequence[int], now: datetime, why: str) -> None:
    """Make the waiting jobs of these deliveries due at once; jobs that run are left alone."""
    asleep = select(jobs.c.id).where(
        jobs.c.kind == kind,
        jobs.c.delivery_id.in_(delivery_ids),
        jobs.c.state == JobState.WAITING,
        jobs.c.not_before.is_not(None),
    )
    for job_id in conn.scalars(asleep).all():
        _move(conn, job_id, JobEvent.WAKE, now, values={"not_before": None}, detail=why)


def fail(conn: Connection, job: ClaimedJob, now: datetime, *, code: str, text: str) -> None:
    """The work failed for good, until an operator revives it."""
    values = {"error_code": code, "error_text": text, "ended_at": now}
    _move(conn, job.id, JobEvent.FAIL, now, token=job.lease_token, values=values, detail=text)


def expire(
    conn: Connection,
    now: datetime,
    *,
    kind: JobKind,
    lane: str,
    leases: Collection[str] | None,
    why: str = "",
) -> list[tuple[int, int | None]]:
    """Take back jobs whose holder is gone; return (job, delivery) of those that had no attempt left.

    leases  tokens that nobody renews any more; None if the caller knows that nobody holds this lane (it
            has the lane's lock), so that every lease is worthless.
    why     how the holder ended, where that is known.
    """
    query = select(jobs).where(jobs.c.kind == kind, jobs.c.lane == lane, jobs.c.state == JobState.RUNNING)
    if leases is not None:
        query = query.where(jobs.c.lease_token.in_(leases))
    exhausted = []
    for row in conn.execute(query).all():
        last = row.attempts >= row.max_attempts
        values: dict[str, Any] = {
            "error_code": AttemptsExhausted().code if last else "worker-gone",
            "error_text": f"attempt {row.attempts} of {row.max_attempts} never reported an end"
            + (f": {why}" if why else ""),
        }
        values |= {"ended_at": now} if last else {"not_before": None}
        event = JobEvent.EXHAUST if last else JobEvent.EXPIRE
        _move(conn, row.id, event, now, token=row.lease_token, values=values, detail=values["error_text"])
        if last:
            exhausted.append((row.id, row.delivery_id))
    return exhausted


def times_queued(conn: Connection, kind: JobKind, delivery_id: int) -> int:
    """How many jobs of a kind a delivery has had."""
    count = select(func.count()).where(jobs.c.delivery_id == delivery_id, jobs.c.kind == kind)
    return conn.scalar(count) or 0


def attempts_allowed(conn: Connection, kind: JobKind, delivery_id: int) -> int | None:
    """How many attempts the latest job of a kind for a delivery was given."""
    return conn.scalar(
        select(jobs.c.max_attempts)
        .where(jobs.c.delivery_id == delivery_id, jobs.c.kind == kind)
        .order_by(jobs.c.id.desc())
        .limit(1)
    )


def release_held(conn: Connection, study_id: int, now: datetime) -> list[str]:
    """Let the held jobs of a settled study go; return the lanes that have work now."""
    held = conn.execute(
        select(jobs.c.id, jobs.c.lane).where(jobs.c.study_id == study_id, jobs.c.state == JobState.HELD)
    ).all()
    for row in held:
        _move(conn, row.id, JobEvent.RELEASE, now, values={"not_before": None})
    return sorted({row.lane for row in held})


def cancel(conn: Connection, job_id: int, now: datetime, by: str) -> None:
    """An operator ends a job."""
    _move(conn, job_id, JobEvent.CANCEL, now, values={"ended_at": now}, detail=by)


def revive(conn: Connection, job_id: int, now: datetime, by: str) -> None:
    """An operator starts a job again, with all its attempts."""
    values = {"attempts": 0, "not_before": None, "ended_at": None}
    _move(conn, job_id, JobEvent.REVIVE, now, values=values, detail=by)


@dataclass(frozen=True, slots=True)
class _Move:
    """One job on its way from state to state, and what changes with it."""

    job_id: int
    values: Mapping[str, Any] = field(default_factory=dict)
    token: str | None = None
    """The lease under which it is in our hands; None if the change is not the holder's."""
    detail: str | None = None


def _move(
    conn: Connection,
    job_id: int,
    event: JobEvent,
    now: datetime,
    *,
    values: dict[str, Any],
    token: str | None = None,
    detail: str | None = None,
) -> None:
    """Change one job if its state, and its lease where one is given, are still what we think."""
    _move_all(conn, event, now, [_Move(job_id, values, token, detail)])


def _move_all(conn: Connection, event: JobEvent, now: datetime, moves: Sequence[_Move]) -> None:
    """Change jobs alike: the same event and the same columns, with a lease for all or for none."""
    change = _change(event, tuple(moves[0].values), leased=moves[0].token is not None)
    changed = conn.execute(
        change,
        [
            {"job": move.job_id, "lease": move.token, "now": now}
            | {f"new_{column}": value for column, value in move.values.items()}
            for move in moves
        ],
    ).rowcount
    if changed != len(moves):
        _explain(conn, moves, event)
    after = next_state(states_before(event)[0], event)
    conn.execute(
        _ADD_EVENT,
        [
            {"job_id": move.job_id, "at": now, "event": event, "state": after, "detail": move.detail}
            for move in moves
        ],
    )


@lru_cache
def _change(event: JobEvent, columns: tuple[str, ...], *, leased: bool) -> Update:
    before = states_before(event)
    after = next_state(before[0], event)
    change = update(jobs).where(
        jobs.c.id == bindparam("job"), or_(*(jobs.c.state == state for state in before))
    )
    if leased:
        change = change.where(jobs.c.lease_token == bindparam("lease"))
    lease_ends = {} if after is JobState.RUNNING else {"lease_token": None, "lease_until": None}
    new: dict[str, Any] = {"state": after, "changed_at": bindparam("now")}
    new |= {column: bindparam(f"new_{column}") for column in columns}
    return change.values(new | lease_ends)


def _explain(conn: Connection, moves: Sequence[_Move], event: JobEvent) -> None:
    """Say why a job did not move, where it is one; of several some did, and only the caller can tell."""
    if len(moves) > 1:
        raise StaleLease(f"one of {len(moves)} jobs cannot {event} any more")
    job_id = moves[0].job_id
    state = conn.scalar(select(jobs.c.state).where(jobs.c.id == job_id))
    if state is None:
        raise NoSuchJob(f"job {job_id}; `emode jobs list` shows what there is")
    if moves[0].token is not None:
        raise StaleLease(f"job {job_id} is {state} by now")
    raise IllegalTransition(f"job {job_id} is {state} and cannot {event}")


def _claimed(row: Row[Any], token: str, now: datetime) -> ClaimedJob:
    return ClaimedJob(
        id=row.id,
        kind=JobKind(row.kind),
        lane=row.lane,
        image_id=row.image_id,
        study_id=row.study_id,
        delivery_id=row.delivery_id,
        priority=row.priority,
        attempts=row.attempts + 1,
        max_attempts=row.max_attempts,
        lease_token=token,
        created_at=row.created_at,
        claimed_at=now,
    )
