"""Claim, keep the lease, run, finish: the one loop for every kind of job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

from dicom_node.core.errors import NodeError, NodeInTrouble, NotTried, Says, StoreBusy
from dicom_node.core.job import JobKind, RetryPolicy
from dicom_node.store import jobs as queue
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob
from dicom_node.store.process import Bells
from dicom_node.store.recovery import take_back
from dicom_node.telemetry.log import where
from dicom_node.work.ends import Ends
from dicom_node.work.gate import Gate
from dicom_node.work.outcome import Handler, Kept, NothingKept, Outcome, Told
from dicom_node.work.pulse import Pulse
from dicom_node.work.recorder import Recorder

log = logging.getLogger(__name__)

_LEASE_S = 120.0  # several times what a busy database may take, so that a renewal is never too late
_RENEW_EVERY_S = 10.0
_LOOK_EVERY_S = 1.0
_FAILURES_BEFORE_A_FRESH_PROCESS = 3
_OLDEST_EVERY = 4
"""One of so many claims is by age alone, so that urgent work without end keeps nothing waiting for ever."""


class UnexpectedFailure(NodeError):
    """The program met something it was not written for."""

    permanent = False


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
    kept: Kept = field(default_factory=NothingKept, compare=False)
    """What its handler keeps open between batches."""
    told: Told = field(default=lambda moved: None, compare=False)


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
        self._failures_in_a_row = 0
        self._nothing: tuple[int | None, datetime, datetime | None] | None = None
        """The last look, if it found nothing due: version of the database, time, when something will be."""
        self._claims = 0
        self._open: dict[int, ClaimedJob] = {}
        """Claimed jobs whose end is not committed."""
        self._ends = Ends(lane.policy, database, bells, lane.told)
        self._recorder = Recorder(self._end_well)

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
                self._bell.wait(min(pause_s, self._lane.kept.rest()))
        self._lane.kept.close()
        self._recorder.close()
        self._bell.close()

    def _step(self) -> float:
        """Do what is due; return how long to sleep after it."""
        if not self._has_room():
            return _LOOK_EVERY_S
        version, now = self._database.version(), self._clock()
        if self._is_still_nothing(version, now):
            return _LOOK_EVERY_S
        # A look that takes no lock comes first, since mostly there is nothing.
        with self._database.read() as conn:
            if self._gate is not None:
                breaker = self._gate.load(conn)
                if self._gate.is_stale_trial(breaker):
                    self._gate.tidy()
                    return 0.0
                if self._gate.allows(conn, breaker, now) == 0:
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
            limit = None if self._gate is None else self._gate.allows(conn, self._gate.load(conn), now)
            claimed = queue.claim(
                conn,
                lane.kind,
                lane.name,
                limit=lane.batch if limit is None else min(limit, lane.batch),
                owner=self._owner,
                lease_s=_LEASE_S,
                now=now,
                retries_alone=lane.retries_alone,
                first=self._turn(is_trial=limit is not None),
            )
            if claimed and limit is not None and self._gate is not None:
                self._gate.begin_trial(conn)
        self._claims += bool(claimed)
        return claimed

    def _turn(self, *, is_trial: bool) -> queue.First:
        if is_trial:
            return queue.First.RESTED
        return queue.First.OLDEST if self._claims % _OLDEST_EVERY == _OLDEST_EVERY - 1 else queue.First.URGENT

    def _work(self, claimed: list[ClaimedJob]) -> None:
        self._open = {job.id: job for job in claimed}
        done = threading.Event()
        self._lane.pulse.step()
        keeper = threading.Thread(target=self._keep, args=(claimed, done), daemon=True)
        keeper.start()
        try:
            try:
                self._work_through(claimed)
            finally:
                self._recorder.flush()
            self._failures_in_a_row = 0
        except Exception as error:  # noqa: BLE001
            # Whatever it was, the jobs must not stay running.
            failure = self._failure(error)
            self._end([Outcome(job, error=failure) for job in self._open.values()])
            if self._failures_in_a_row >= _FAILURES_BEFORE_A_FRESH_PROCESS:
                self._on_hang(claimed)
        finally:
            done.set()
            keeper.join()

    def _work_through(self, claimed: list[ClaimedJob]) -> None:
        outcomes = self._handler(claimed)
        for outcome in outcomes:
            # A lone job's end has nobody to wait for.
            if outcome.can_be_gathered and len(claimed) > 1:
                self._recorder.take(outcome)
            else:
                self._recorder.flush()  # what ended before is heard before
                must_wait = self._hear(outcome)
                others = [job for job in self._open.values() if job.id != outcome.job.id]
                ended = [outcome, *self._that_end_with(outcome, outcomes, others, must_wait=must_wait)]
                self._end(ended, behind_the_gate=must_wait)
            self._lane.pulse.step()

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
        """Commit how jobs ended."""
        self._ends.write(outcomes, self._clock(), behind_the_gate=behind_the_gate)
        for outcome in outcomes:
            self._open.pop(outcome.job.id, None)

    def _end_well(self, outcomes: Sequence[Outcome]) -> None:
        """As `_hear` and `_end`, for several that ended well: to the breaker they say the same."""
        said = next((outcome for outcome in outcomes if outcome.asked), None)
        if said is not None:
            self._hear(said)
        self._end(outcomes)
