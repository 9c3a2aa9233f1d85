"""Between a lane and its destination: how many jobs may go out, and what their ends say about it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from dicom_node.core.breaker import (
    Breaker,
    BreakerPolicy,
    BreakerState,
    answered,
    failed,
    tried,
    undecided,
)
from dicom_node.core.errors import NodeError, Says
from dicom_node.core.job import JobKind
from dicom_node.store.breakers import let_go, load_breaker, save_breaker, waits
from dicom_node.store.database import Database

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Gate:
    """The circuit breaker of a destination, as one of its lanes sees it.

    The lanes of a destination share the row in the table and nothing else.
    """

    destination: str
    kind: JobKind
    policy: BreakerPolicy
    database: Database
    clock: Callable[[], datetime]
    _draw: Callable[[], float] = field(default=random.SystemRandom().random)
    _heard: NodeError | None = None

    def load(self, conn: Connection) -> Breaker:
        """The breaker as it is now, for the questions below."""
        return load_breaker(conn, self.destination)

    def allows(self, conn: Connection, breaker: Breaker, now: datetime) -> int | None:
        """Most jobs that may be claimed; None is no limit.

        Asked only while nothing of this lane is out: a trial of this lane that still stands in the table
        ended without a verdict, in this process or in one that was killed.
        """
        if breaker.state is BreakerState.CLOSED:
            return None
        if breaker.state is BreakerState.HALF_OPEN and breaker.kind is not self.kind:
            return 0
        # Storing is what a destination is for, so a delivery is the better trial.
        if self.kind is not JobKind.DELIVER and waits(conn, self.destination, JobKind.DELIVER):
            return 0
        return 1 if breaker.may_try(self.policy, now) else 0

    def is_stale_trial(self, breaker: Breaker) -> bool:
        """Is there a trial of this lane that left no verdict? Asked as `allows` is."""
        return breaker.state is BreakerState.HALF_OPEN and breaker.kind is self.kind

    def tidy(self) -> None:
        """Put an end to it."""
        with self.database.write() as conn:
            breaker = load_breaker(conn, self.destination)
            if self.is_stale_trial(breaker):
                save_breaker(conn, self.destination, undecided(breaker))

    def begin_trial(self, conn: Connection) -> None:
        """What was claimed under a limit goes out now; in the transaction that claims it."""
        save_breaker(conn, self.destination, tried(self.load(conn), self.kind))

    def hear(self, error: NodeError | None) -> bool:
        """A job that asked the destination has ended; must the rest of its batch wait?

        One error object counts as one failure, however many jobs it ended: an association that was not
        to be had ends all that were to travel on it.
        """
        says = Says.ANSWERS if error is None else error.says
        if says is Says.NOTHING:
            return False
        # A question that ends badly on an association that was given must not stop deliveries.
        fails = says is Says.AWAY or (says is Says.FAILS and self.kind is JobKind.DELIVER)
        with self.database.read() as conn:
            breaker = load_breaker(conn, self.destination)
        if error is not None and error is self._heard:
            return fails and breaker.state is not BreakerState.CLOSED
        self._heard = error
        if not fails and answered(breaker, self.kind) == breaker:
            return False
        now = self.clock()
        with self.database.write() as conn:
            before = load_breaker(conn, self.destination)
            after = self._after(before, error if fails else None, now)
            save_breaker(conn, self.destination, after)
            if after.state is not before.state:
                let_go(conn, self.destination, attempts_back=after.state is BreakerState.CLOSED)
        self._report(before, after, now)
        return fails and after.state is not BreakerState.CLOSED

    def _after(self, breaker: Breaker, error: NodeError | None, now: datetime) -> Breaker:
        if error is None:
            return answered(breaker, self.kind)
        return failed(
            breaker, self.kind, self.policy, now, self._draw(), code=error.code, text=error.for_operators
        )

    def _report(self, before: Breaker, after: Breaker, now: datetime) -> None:
        fields = {
            "kind": self.kind.value,
            "lane": self.destination,
            "count": after.failures or before.failures,
        }
        if after.state is BreakerState.OPEN and before.state is not BreakerState.OPEN:
            next_try = after.next_try_at and after.next_try_at.isoformat(timespec="seconds")
            log.warning(
                "destination left alone",
                extra={
                    "action": "destination-left-alone",
                    "code": after.error_code,
                    "next_try": next_try,
                    **fields,
                },
            )
        elif after.state is BreakerState.CLOSED and before.state is not BreakerState.CLOSED:
            since = (now - before.since).total_seconds() if before.since else None
            log.info("destination is back", extra={"action": "destination-back", "seconds": since, **fields})
