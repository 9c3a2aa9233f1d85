"""Claim, keep the lease, run, finish: the one loop for every kind of job."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.errors import (
    IllegalTransition,
    NodeError,
    NodeInTrouble,
    NotTried,
    Says,
    StaleLease,
    StoreBusy,
)
from dicom_node.core.job import JobKind, RetryPolicy, retry_at
from dicom_node.store import jobs as queue
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob
from dicom_node.store.process import Bells
from dicom_node.store.recovery import take_back
from dicom_node.telemetry.log import where
from dicom_node.work.gate import Gate
from dicom_node.work.pulse import Pulse

log = logging.getLogger(__name__)

_LEASE_S = 120.0  # several times what a busy database may take, so that a renewal is never too late
_RENEW_EVERY_S = 10.0
_LOOK_EVERY_S = 1.0
_TROUBLE_PAUSE_S = 10.0
_FAILURES_BEFORE_A_FRESH_PROCESS = 3

Effect = Callable[[Connection, datetime], None]


class UnexpectedFailure(NodeError):
    """The program met something it was not written for."""

    permanent = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Not an end: somebody outside has the next word, and whoever hears it wakes the job.

    until    when to look again if nobody does.
    counted  False if nothing was done this time: the attempt is given back.
    """

    until: datetime
    counted: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job ended.

    effect  what the end changes besides the job; committed with it, or not at all.
    error   None if the work is done. With a permanent error, or the last attempt, the job fails.
    on_failure  what a final failure changes besides the job.
    """

    job: ClaimedJob
    error: NodeError | None = None
    effect: Effect | None = None
    on_failure: Effect | None = None
    detail: str | None = None
    rings: tuple[tuple[JobKind, str], ...] = ()
    """(kind, lane) that have work once this is committed."""
    asked: bool = True
    """False if the job ended without a word to its destination."""
    wait: Wait | None = None
    """Set if the job has not ended."""
    came: Callable[[Connection], bool] | None = None
    """Is what the job waits for there by now? Asked in the transaction that puts the job back, so that
    what came while it ran is not slept through."""


Handler = Callable[[Sequence[ClaimedJob]], Iterator[Outcome]]
"""Yields one outcome for each job; may be closed before its end, and what is left is then put back."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What a loop serves, and how."""

    kind: JobKind
    name: str
    batch: int
    policy: RetryPolicy
    time_limit_s: float
    """Of one step, as `pulse` has it."""
    retries_alone: bool = False
    pulse: Pulse = field(default_factory=Pulse, compare=False)
    """Beaten at the start of a batch and at each outcome; a handler that takes long beats it in between."""


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _patiently(
    write: Callable[Concatenate[WorkLoop, _P], _T],
) -> Callable[Concatenate[WorkLoop, _P], _T]:
    """Do it again until the database takes it, or the process is to end.

    What is to be written down has happened: an archive has the result, an image is judged. Dropping it for
    a database that is locked or full would do the work twice, and charge the job for it.
    """

    def until_written(loop: WorkLoop, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        while True:
            try:
                return write(loop, *args, **kwargs)
            except StoreBusy as error:
                loop._note_database(error)
                loop._lane.pulse.step()  # waiting is not hanging
                if loop._stop.wait(_LOOK_EVERY_S):
                    raise

    return until_written


class WorkLoop:
    """Serves one lane until told to stop. The table is the truth; the loop can die at any moment."""

    def __init__(
        self,
        lane: Lane,
        database: Database,
        bells: Bells,
        handler: Handler,
        *,
        owner: str,
        clock: Callable[[], datetime],
        on_hang: Callable[[Sequence[ClaimedJob]], None],
        gate: Gate | None = None,
        has_room: Callable[[], bool] = lambda: True,
        last_end: str = "",
    ) -> None:
        """Prepare; `run` does the work.

        handler  yields one outcome for each job it is given; each is committed as it comes.
        gate     the circuit breaker of the lane's destination.
        last_end  how the process before this one ended, where that is known.
        has_room  is there room on the disk for what this lane makes? Nothing is claimed before.
        on_hang  called when a step takes longer than the lane's time limit (from another thread), or when
                 one after the other fails for no known reason: only a fresh process may help then.
        """
        self._lane = lane
        self._database = database
        self._bells = bells
        self._bell = bells.bell(lane.kind, lane.name)
        self._handler = handler
        self._owner = owner
        self._clock = clock
        self._on_hang = on_hang
        self._gate = gate
        self._has_room = has_room
        self._last_end = last_end
        self._stop = threading.Event()
        self._database_is_busy = False
        self._draw = random.SystemRandom().random
        self._failures_in_a_row = 0
        self._nothing: tuple[int | None, datetime, datetime | None] | None = None
        """The last look, if it found nothing due: version of the database, time, when something will be."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; the batch in hand is ended first."""
        self._stop = stop
        taken_back = False
        while not stop.is_set():
            try:
                if not taken_back:
                    self._take_back()
                    taken_back = True
                pause_s = self._step()
                self._note_database(None)
            except StoreBusy as error:
                self._note_database(error)
                pause_s = _LOOK_EVERY_S
            if pause_s > 0:
                self._bell.wait(pause_s)
        self._bell.close()

    def _step(self) -> float:
        """Do what is due; return how long to sleep after it."""
        if not self._has_room():
            return _LOOK_EVERY_S
        version, now = self._database.version(), self._clock()
        if self._is_still_nothing(version, now):
            return _LOOK_EVERY_S
        if self._gate is not None:
            self._gate.tidy()
        # A look that takes no lock comes first, since mostly there is nothing.
        with self._database.read() as conn:
            if self._gate is not None and self._gate.allows(conn, now) == 0:
                return _LOOK_EVERY_S
            due = queue.next_due(conn, self._lane.kind, self._lane.name, now)
        if due is None or due > now:
            self._nothing = version, now, due
            return _LOOK_EVERY_S if due is None else min(_LOOK_EVERY_S, (due - now).total_seconds())
        claimed = self._claim(now)
        if claimed:
            self._work(claimed)
        return 0.0

    def _is_still_nothing(self, version: int | None, now: datetime) -> bool:
        """Nobody has committed anything since the last look, and what it found to come is not due yet.

        A look at the tables costs a millisecond, each second, in each lane, for as long as a node runs.
        """
        if self._nothing is None or version is None:
            return False
        known, looked_at, due = self._nothing
        if version != known or now < looked_at:  # the second: the clock was set back
            return False
        return due is None or now + timedelta(seconds=_LOOK_EVERY_S) < due

    def _note_database(self, error: StoreBusy | None) -> None:
        """One line when the database begins to refuse, one when it is back: either may last for hours."""
        if self._database_is_busy is (error is not None):
            return
        self._database_is_busy = error is not None
        lane = {"kind": self._lane.kind.value, "lane": self._lane.name}
        if error is not None:
            log.error(
                "database busy; this lane waits", extra={"action": "store-busy", "code": error.code, **lane}
            )
        else:
            log.warning("database works again", extra={"action": "store-works", **lane})

    def _take_back(self) -> None:
        """Return what earlier holders of this lane left running: we have its lock, so they are gone."""
        with self._database.write() as conn:
            take_back(
                conn,
                self._clock(),
                kind=self._lane.kind,
                lane=self._lane.name,
                leases=None,
                why=self._last_end,
            )

    def _claim(self, now: datetime) -> list[ClaimedJob]:
        lane = self._lane
        with self._database.write() as conn:
            limit = None if self._gate is None else self._gate.allows(conn, now)
            claimed = queue.claim(
                conn,
                lane.kind,
                lane.name,
                limit=lane.batch if limit is None else min(limit, lane.batch),
                owner=self._owner,
                lease_s=_LEASE_S,
                now=now,
                retries_alone=lane.retries_alone,
                rested_first=limit is not None,
            )
            if claimed and limit is not None and self._gate is not None:
                self._gate.begin_trial(conn)
            return claimed

    def _work(self, claimed: list[ClaimedJob]) -> None:
        open_jobs = {job.id: job for job in claimed}
        done = threading.Event()
        self._lane.pulse.step()
        keeper = threading.Thread(target=self._keep, args=(claimed, done), daemon=True)
        keeper.start()
        try:
            outcomes = self._handler(claimed)
            for outcome in outcomes:
                must_wait = self._hear(outcome)
                others = [job for job in claimed if job.id in open_jobs and job.id != outcome.job.id]
                ended = [outcome, *self._that_end_with(outcome, outcomes, others, must_wait=must_wait)]
                self._end(ended, behind_the_gate=must_wait)
                self._lane.pulse.step()
                for one in ended:
                    open_jobs.pop(one.job.id, None)
            self._failures_in_a_row = 0
        except Exception as error:  # noqa: BLE001
            # Whatever it was, the jobs must not stay running.
            failure = self._failure(error)
            self._end([Outcome(job, error=failure) for job in open_jobs.values()])
            if self._failures_in_a_row >= _FAILURES_BEFORE_A_FRESH_PROCESS:
                self._on_hang(claimed)
        finally:
            done.set()
            keeper.join()

    def _that_end_with(
        self, outcome: Outcome, outcomes: Iterator[Outcome], others: list[ClaimedJob], *, must_wait: bool
    ) -> list[Outcome]:
        """The ends of other jobs of the batch that need no network any more: one transaction for all.

        Otherwise a destination that is away would keep the disk, and so the other lanes, busy.
        """
        error = outcome.error
        if error is not None and (error.says is Says.AWAY or isinstance(error, NotTried)):
            return list(outcomes)
        if not must_wait:
            return []
        if isinstance(outcomes, Generator):
            outcomes.close()
        return [Outcome(job, error=NotTried("it is due once the destination is back")) for job in others]

    def _failure(self, error: Exception) -> NodeError:
        """What an error that the handler did not foresee means for its jobs."""
        log.error(
            "batch failed",
            extra={
                "action": "batch-failed",
                "kind": self._lane.kind.value,
                "lane": self._lane.name,
                "code": type(error).__name__,
                "where": where(error),
            },
        )
        if isinstance(error, StoreBusy):
            return error
        if isinstance(error, OSError):
            return NodeInTrouble(f"{type(error).__name__}, {error.strerror} at {where(error)}")
        self._failures_in_a_row += 1
        return UnexpectedFailure(f"{type(error).__name__} at {where(error)}")

    def _keep(self, claimed: list[ClaimedJob], done: threading.Event) -> None:
        """Renew the leases while the batch runs; cry out if one of its steps takes too long."""
        while not done.wait(min(_RENEW_EVERY_S, self._lane.time_limit_s / 2)):
            if self._lane.pulse.seconds() > self._lane.time_limit_s:
                self._on_hang(claimed)
                return
            # A database that is busy now may not be at the next turn, and hanging is watched all the same.
            with suppress(StoreBusy), self._database.write() as conn:
                queue.renew(conn, claimed, self._clock() + timedelta(seconds=_LEASE_S))

    @_patiently
    def _hear(self, outcome: Outcome) -> bool:
        """Tell the circuit breaker; must this job, and the rest of its batch, wait for the destination?"""
        return self._gate is not None and outcome.asked and self._gate.hear(outcome.error)

    @_patiently
    def _end(self, outcomes: Sequence[Outcome], *, behind_the_gate: bool = False) -> None:
        """Commit how jobs ended; behind the gate it costs no attempt, and the gate says when they are due."""
        now = self._clock()
        ended: list[tuple[Outcome, str, datetime | None]] = []
        with self._database.write() as conn:
            for outcome in outcomes:
                try:
                    with conn.begin_nested():
                        words, again = self._record(conn, outcome, now, behind_the_gate=behind_the_gate)
                    ended.append((outcome, words, again))
                except StaleLease:
                    log.warning(
                        "job was taken away", extra={"action": "stale-lease", **_job_fields(outcome.job)}
                    )
                except IllegalTransition as error:
                    # What the job was to change is further on already: another job for the same delivery, or
                    # a person, was first. Its neighbours must not pay for that.
                    queue.finish(conn, outcome.job, now, str(error))
                    ended.append((replace(outcome, error=None, wait=None), "job was overtaken", None))
        for kind, lane in {ring for outcome, _, _ in ended for ring in outcome.rings}:
            self._bells.ring(kind, lane)
        for outcome, words, again in ended:
            job = outcome.job
            faults.step(f"{job.kind}.committed")
            # An outage is one event, and the gate has reported it.
            severity = logging.DEBUG if behind_the_gate else logging.WARNING
            log.log(
                logging.INFO if outcome.error is None else severity,
                words,
                extra={
                    "action": words.replace(" ", "-"),
                    "code": outcome.error.code if outcome.error else None,
                    "next_try": again.isoformat(timespec="seconds") if again else None,
                    "seconds": (now - outcome.job.claimed_at).total_seconds(),
                    **_job_fields(outcome.job),
                },
            )

    def _record(
        self, conn: Connection, outcome: Outcome, now: datetime, *, behind_the_gate: bool
    ) -> tuple[str, datetime | None]:
        """Write one end down; return it in words, and when the job is tried again if it is."""
        job, error = outcome.job, outcome.error
        again: datetime | None = None
        if outcome.wait is not None:
            again = self._unless_there(outcome, outcome.wait.until, conn)
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
            words = "job finished"
        elif (again := now if behind_the_gate else self._again(job, error, now)) is None:
            queue.fail(conn, job, now, code=error.code, text=error.for_operators)
            _apply(outcome.on_failure, conn, now)
            words = "job failed"
        else:
            again = self._unless_there(outcome, again, conn)
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
        faults.step(f"{job.kind}.recorded")
        return words, again

    def _unless_there(self, outcome: Outcome, again: datetime, conn: Connection) -> datetime | None:
        """When the job is due: None, at once, if what it waits for has come."""
        return None if outcome.came is not None and outcome.came(conn) else again

    def _again(self, job: ClaimedJob, error: NodeError, now: datetime) -> datetime | None:
        if isinstance(error, NotTried):
            return now
        if not error.counted:
            return now + timedelta(seconds=_TROUBLE_PAUSE_S)
        return retry_at(
            permanent=error.permanent,
            attempt=job.attempts,
            max_attempts=job.max_attempts,
            policy=self._lane.policy,
            now=now,
            draw=self._draw(),
        )


def _apply(effect: Effect | None, conn: Connection, now: datetime) -> None:
    if effect is not None:
        effect(conn, now)


def _job_fields(job: ClaimedJob) -> dict[str, object]:
    return {"job": job.id, "kind": job.kind.value, "lane": job.lane, "attempt": job.attempts}
