"""How a job ended, and what its end changes besides the job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Connection

from dicom_node.core.delivery import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState
from dicom_node.core.errors import IllegalTransition, NodeError
from dicom_node.core.job import JobKind
from dicom_node.store.jobs import ClaimedJob, NewJob, enqueue_all
from dicom_node.store.results import Parcel, move_deliveries

Effect = Callable[[Connection, datetime], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """The effect that most ends of the courier have, as data: so that many are written with one statement.

    values    what changes in the delivery's row besides its state.
    time_in   the column that takes the time of writing.
    then      a job that follows from it, `then_after` later.
    """

    delivery_id: int
    event: DeliveryEvent
    time_in: str
    values: Mapping[str, Any] = field(default_factory=dict)
    then: NewJob | None = None
    then_after: timedelta = timedelta()

    @property
    def reached(self) -> DeliveryState:
        """The state that the delivery comes to."""
        return next(after for (_, event), after in DELIVERY_TRANSITIONS.items() if event is self.event)

    def __call__(self, conn: Connection, now: datetime) -> None:
        """Write this one."""
        move_all(conn, [self], now)


def move_all(conn: Connection, moved: Sequence[Moved], now: datetime) -> None:
    """Write these; raises IllegalTransition if the table does not allow one, and then none may stay."""
    alike: defaultdict[DeliveryEvent, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for one in moved:
        if one.delivery_id in alike[one.event]:
            raise IllegalTransition(f"delivery {one.delivery_id} cannot {one.event} twice")
        alike[one.event][one.delivery_id] = {**one.values, one.time_in: now}
    for event, deliveries in alike.items():
        move_deliveries(conn, event, deliveries)
    then = [replace(one.then, not_before=now + one.then_after) for one in moved if one.then is not None]
    enqueue_all(conn, then, now)


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
    parcel: Parcel | None = None
    """The result that it is about, for who is told of what became of deliveries."""
    rings: tuple[tuple[JobKind, str], ...] = ()
    """(kind, lane) that have work once this is committed."""
    asked: bool = True
    """False if the job ended without a word to its destination."""
    wait: Wait | None = None
    """Set if the job has not ended."""
    came: Callable[[Connection], bool] | None = None
    """Is what the job waits for there by now? Asked in the transaction that puts the job back, so that
    what came while it ran is not slept through."""

    @property
    def can_be_gathered(self) -> bool:
        """May this be written a moment later, with others? Only what a repetition of the job brings again."""
        return self.error is None and self.wait is None and isinstance(self.effect, Moved)


Told = Callable[[Sequence[tuple[Parcel, DeliveryState]]], None]
"""Hears what became of deliveries, once that is committed; must not raise."""


class Kept(Protocol):
    """What a handler keeps open from batch to batch."""

    def rest(self) -> float:
        """Nothing is due: let go of what need not be kept; return seconds until this is to be called anew."""

    def close(self) -> None:
        """The lane ends: let go of everything."""


class NothingKept:
    """Most handlers keep nothing."""

    def rest(self) -> float:
        """Never again."""
        return float("inf")

    def close(self) -> None:
        """Do nothing."""


Handler = Callable[[Sequence[ClaimedJob]], Iterator[Outcome]]
"""Yields one outcome for each job; may be closed before its end, and what is left is then put back."""
