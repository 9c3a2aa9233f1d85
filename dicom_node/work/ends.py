"""Commit how jobs ended: state, history and effects in one transaction, then a line of log for each."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.delivery import DeliveryState
from dicom_node.core.errors import IllegalTransition, NodeError, NotTried, StaleLease
from dicom_node.core.job import RetryPolicy, retry_at
from dicom_node.store import jobs as queue
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob
from dicom_node.store.process import Bells
from dicom_node.work.outcome import Effect, Moved, Outcome, Told, move_all

log = logging.getLogger(__name__)

_TROUBLE_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class _End:
    """What was written down."""

    outcome: Outcome
    words: str
    again: datetime | None = None
    """When the job is tried again, if it is."""
    reached: DeliveryState | None = None
    """What its delivery has come to, if it has moved."""


class Ends:
    """Writes down the ends of one lane's jobs."""

    def __init__(self, policy: RetryPolicy, database: Database, bells: Bells, told: Told) -> None:
        """Try again by `policy`; ring `bells` for what has work then; `told` hears of deliveries."""
        self._told = told
        self._policy = policy
        self._database = database
        self._bells = bells
        self._draw = random.SystemRandom().random

    def write(self, outcomes: Sequence[Outcome], now: datetime, *, behind_the_gate: bool = False) -> None:
        """Commit these ends; behind the gate they cost no attempt, and the gate says when they are due.

        A job that was taken away from us, or whose delivery is further on already, costs its neighbours
        nothing. Raises StoreBusy, and then nothing is written.
        """
        if all(outcome.can_be_gathered for outcome in outcomes):
            try:
                ends = self._write_together(outcomes, now)
            except (StaleLease, IllegalTransition):
                ends = self._write_each(outcomes, now, behind_the_gate=behind_the_gate)
        else:
            ends = self._write_each(outcomes, now, behind_the_gate=behind_the_gate)
        for kind, lane in {ring for end in ends for ring in end.outcome.rings}:
            self._bells.ring(kind, lane)
        for end in ends:
            self._report(end, now, behind_the_gate=behind_the_gate)
        moved = [(end.outcome.parcel, end.reached) for end in ends]
        self._told([(parcel, state) for parcel, state in moved if parcel is not None and state is not None])

    def _write_together(self, outcomes: Sequence[Outcome], now: datetime) -> list[_End]:
        """As many statements for many as for one."""
        moved = [outcome.effect for outcome in outcomes if isinstance(outcome.effect, Moved)]
        with self._database.write() as conn:
            queue.finish_all(conn, [(outcome.job, outcome.detail) for outcome in outcomes], now)
            move_all(conn, moved, now)
            for outcome in outcomes:
                _is_recorded(outcome.job)
        return [_End(outcome, "job finished", reached=_reached(outcome)) for outcome in outcomes]

    def _write_each(self, outcomes: Sequence[Outcome], now: datetime, *, behind_the_gate: bool) -> list[_End]:
        ends = []
        with self._database.write() as conn:
            for outcome in outcomes:
                try:
                    with conn.begin_nested():
                        ends.append(self._record(conn, outcome, now, behind_the_gate=behind_the_gate))
                except StaleLease:
                    log.warning(
                        "job was taken away", extra={"action": "stale-lease", **_job_fields(outcome.job)}
                    )
                except IllegalTransition as error:
                    # What the job was to change is further on already: another job for the same delivery, or
                    # a person, was first. Its neighbours must not pay for that.
                    queue.finish(conn, outcome.job, now, str(error))
                    ends.append(_End(replace(outcome, error=None, wait=None), "job was overtaken"))
        return ends

    def _record(self, conn: Connection, outcome: Outcome, now: datetime, *, behind_the_gate: bool) -> _End:
        """Write one end down."""
        job, error = outcome.job, outcome.error
        again: datetime | None = None
        reached: DeliveryState | None = None
        if outcome.wait is not None:
            again = _unless_there(outcome, outcome.wait.until, conn)
            queue.postpone(
                conn,
                job,
                now,
                until=again,
                counted=outcome.wait.counted,
                text=outcome.detail or "",
            )
            words = "job waits"
        elif error is None:
            queue.finish(conn, job, now, outcome.detail)
            _apply(outcome.effect, conn, now)
            words, reached = "job finished", _reached(outcome)
        elif (again := now if behind_the_gate else self._again(job, error, now)) is None:
            queue.fail(conn, job, now, code=error.code, text=error.for_operators)
            _apply(outcome.on_failure, conn, now)
            words, reached = "job failed", DeliveryState.PARKED
        else:
            again = _unless_there(outcome, again, conn)
            queue.retry(
                conn,
                job,
                now,
                not_before=again if again is not None and again > now else None,
                code=error.code,
                text=error.for_operators,
                counted=error.counted and not behind_the_gate,
            )
            words = "job will be tried again"
        _is_recorded(job)
        return _End(outcome, words, again, reached)

    def _again(self, job: ClaimedJob, error: NodeError, now: datetime) -> datetime | None:
        if isinstance(error, NotTried):
            return now
        if not error.counted:
            return now + timedelta(seconds=_TROUBLE_PAUSE_S)
        return retry_at(
            permanent=error.permanent,
            attempt=job.attempts,
            max_attempts=job.max_attempts,
            policy=self._policy,
            now=now,
            draw=self._draw(),
        )

    def _report(self, end: _End, now: datetime, *, behind_the_gate: bool) -> None:
        job, error = end.outcome.job, end.outcome.error
        faults.step(f"{job.kind}.committed")
        # An outage is one event, and the gate has reported it.
        severity = logging.DEBUG if behind_the_gate else logging.WARNING
        log.log(
            logging.INFO if error is None else severity,
            end.words,
            extra={
                "action": end.words.replace(" ", "-"),
                "code": error.code if error else None,
                "next_try": end.again.isoformat(timespec="seconds") if end.again else None,
                "seconds": (now - job.claimed_at).total_seconds(),
                **_job_fields(job),
            },
        )


def _reached(outcome: Outcome) -> DeliveryState | None:
    return outcome.effect.reached if isinstance(outcome.effect, Moved) else None


def _unless_there(outcome: Outcome, again: datetime, conn: Connection) -> datetime | None:
    """When the job is due: None, at once, if what it waits for has come."""
    return None if outcome.came is not None and outcome.came(conn) else again


def _apply(effect: Effect | None, conn: Connection, now: datetime) -> None:
    if effect is not None:
        effect(conn, now)


def _job_fields(job: ClaimedJob) -> dict[str, object]:
    return {"job": job.id, "kind": job.kind.value, "lane": job.lane, "attempt": job.attempts}


def _is_recorded(job: ClaimedJob) -> None:
    faults.step(f"{job.kind}.recorded")
