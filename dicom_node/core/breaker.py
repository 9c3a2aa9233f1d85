"""The circuit breaker of one destination: after failures in a row it is left alone, then tried once.

A destination that is away for a night must cost its results no attempts and nobody else a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from dicom_node.core.errors import IllegalTransition
from dicom_node.core.job import JobKind, RetryPolicy


class BreakerState(StrEnum):
    """What may be sent to a destination."""

    CLOSED = "closed"
    """Everything: the destination works, or has not failed often enough."""
    OPEN = "open"
    """Nothing until `next_try_at`; jobs wait and lose no attempt."""
    HALF_OPEN = "half-open"
    """One job is out to see whether the destination is back."""


class BreakerEvent(StrEnum):
    """What can happen to a breaker."""

    ANSWER = "answer"
    FAIL = "fail"
    TRIP = "trip"
    TRY = "try"
    SHRUG = "shrug"
    HURRY = "hurry"


BREAKER_TRANSITIONS: dict[tuple[BreakerState, BreakerEvent], BreakerState] = {
    (BreakerState.CLOSED, BreakerEvent.ANSWER): BreakerState.CLOSED,  # failures begin again at none
    (BreakerState.CLOSED, BreakerEvent.FAIL): BreakerState.CLOSED,  # one more, not yet enough
    (BreakerState.CLOSED, BreakerEvent.TRIP): BreakerState.OPEN,  # enough in a row
    (BreakerState.OPEN, BreakerEvent.ANSWER): BreakerState.CLOSED,  # what was still under way arrived
    (BreakerState.OPEN, BreakerEvent.FAIL): BreakerState.OPEN,  # what was still under way failed too
    (BreakerState.OPEN, BreakerEvent.TRY): BreakerState.HALF_OPEN,  # the pause is over
    (BreakerState.OPEN, BreakerEvent.HURRY): BreakerState.OPEN,  # operator: the pause is over at once
    (BreakerState.HALF_OPEN, BreakerEvent.ANSWER): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, BreakerEvent.TRIP): BreakerState.OPEN,  # for longer
    (BreakerState.HALF_OPEN, BreakerEvent.SHRUG): BreakerState.OPEN,  # the trial ended without a verdict
}


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a destination is left alone, and for how long."""

    failures: int
    """Failures in a row that open it."""
    pauses: RetryPolicy
    """Time until the first trial, the second, and so on."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """How a destination has behaved lately. Made without arguments it has never failed."""

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    """Failures since it last answered."""
    pauses: int = 0
    """Times it was left alone since it last answered."""
    since: datetime | None = None
    """When the first of these failures happened."""
    next_try_at: datetime | None = None
    """When it is open: not before this time; None is at once."""
    kind: JobKind | None = None
    """Kind of the job that failed last, or that is out as the trial."""
    error_code: str | None = None
    error_text: str | None = None

    def may_try(self, policy: BreakerPolicy, now: datetime) -> bool:
        """Is the pause of an open breaker over?"""
        # A time further away than any pause was written before the clock was set back.
        furthest = now + timedelta(seconds=policy.pauses.cap_s)
        return self.next_try_at is None or not now < self.next_try_at <= furthest


def answered(breaker: Breaker, kind: JobKind) -> Breaker:
    """The destination dealt with a job of this kind, whatever its answer was.

    A question that was answered proves little about storing: an archive with a full disk still lists what
    it has. So an answered delivery ends every run of failures, an answered question only its own kind's.
    """
    if breaker == Breaker() or kind not in (JobKind.DELIVER, breaker.kind):
        return breaker
    return Breaker(state=_after(breaker, BreakerEvent.ANSWER))


def failed(
    breaker: Breaker,
    kind: JobKind,
    policy: BreakerPolicy,
    now: datetime,
    draw: float,
    *,
    code: str,
    text: str,
) -> Breaker:
    """The destination failed once; `draw` is uniform in [0, 1) and spreads the pauses."""
    if breaker.state is BreakerState.HALF_OPEN and kind is not breaker.kind:
        return breaker  # begun before it opened; the trial decides
    failures = breaker.failures + 1
    known = replace(
        breaker,
        failures=failures,
        since=breaker.since or now,
        error_code=code,
        error_text=text,
    )
    if breaker.state is BreakerState.OPEN:
        return replace(known, state=_after(breaker, BreakerEvent.FAIL))
    known = replace(known, kind=kind)
    if breaker.state is BreakerState.CLOSED and failures < policy.failures:
        return replace(known, state=_after(breaker, BreakerEvent.FAIL))
    pauses = breaker.pauses + 1
    pause = timedelta(seconds=policy.pauses.delay_s(pauses, draw))
    return replace(known, state=_after(breaker, BreakerEvent.TRIP), pauses=pauses, next_try_at=now + pause)


def tried(breaker: Breaker, kind: JobKind) -> Breaker:
    """One job of this kind goes out as the trial."""
    return replace(breaker, state=_after(breaker, BreakerEvent.TRY), kind=kind, next_try_at=None)


def undecided(breaker: Breaker) -> Breaker:
    """The trial ended without a word about the destination; another may follow at once."""
    return replace(breaker, state=_after(breaker, BreakerEvent.SHRUG), next_try_at=None)


def hurried(breaker: Breaker) -> Breaker:
    """An operator wants the next trial at once."""
    return replace(breaker, state=_after(breaker, BreakerEvent.HURRY), next_try_at=None)


def _after(breaker: Breaker, event: BreakerEvent) -> BreakerState:
    try:
        return BREAKER_TRANSITIONS[breaker.state, event]
    except KeyError:
        raise IllegalTransition(f"a breaker that is {breaker.state} cannot {event}") from None
