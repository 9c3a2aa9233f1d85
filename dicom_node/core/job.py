"""Jobs: the only way work moves. States, events, the table of legal changes, and when to try again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dicom_node.core.errors import IllegalTransition


class JobKind(StrEnum):
    """What a job does."""

    INFER = "infer"
    DELIVER = "deliver"
    CONFIRM = "confirm"


class JobState(StrEnum):
    """Where a job stands."""

    HELD = "held"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobEvent(StrEnum):
    """What can happen to a job."""

    RELEASE = "release"
    CLAIM = "claim"
    FINISH = "finish"
    RETRY = "retry"
    POSTPONE = "postpone"
    WAKE = "wake"
    FAIL = "fail"
    EXPIRE = "expire"
    EXHAUST = "exhaust"
    CANCEL = "cancel"
    REVIVE = "revive"


JOB_TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    (JobState.HELD, JobEvent.RELEASE): JobState.WAITING,  # its study has settled
    (JobState.HELD, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.WAITING, JobEvent.CLAIM): JobState.RUNNING,  # lease token set, attempts + 1
    (JobState.WAITING, JobEvent.WAKE): JobState.WAITING,  # what it waits for has come: due at once
    (JobState.WAITING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobEvent.FINISH): JobState.DONE,
    (JobState.RUNNING, JobEvent.RETRY): JobState.WAITING,  # temporary failure, not before a later time
    (JobState.RUNNING, JobEvent.POSTPONE): JobState.WAITING,  # somebody outside has the next word
    (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,  # permanent, or out of attempts
    (JobState.RUNNING, JobEvent.EXPIRE): JobState.WAITING,  # the worker died or hung
    (JobState.RUNNING, JobEvent.EXHAUST): JobState.FAILED,  # it did so on the last attempt
    (JobState.RUNNING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.FAILED, JobEvent.REVIVE): JobState.WAITING,  # operator: attempts start again
    (JobState.FAILED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.CANCELLED, JobEvent.REVIVE): JobState.WAITING,
}


def next_state(state: JobState, event: JobEvent) -> JobState:
    """Look the change up, or raise IllegalTransition."""
    try:
        return JOB_TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"a {state} job cannot {event}") from None


def states_before(event: JobEvent) -> tuple[JobState, ...]:
    """Every state from which the event is legal: what a compare-and-set has to compare with."""
    return tuple(state for state, known in JOB_TRANSITIONS if known is event)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patiently to try again."""

    first_delay_s: float = 30.0
    factor: float = 2.0
    cap_s: float = 3600.0
    jitter: float = 0.2
    """Share of the delay that is drawn at random, so that many jobs do not return in step."""

    def delay_s(self, attempt: int, draw: float) -> float:
        """Seconds to wait after attempt number `attempt` (from 1); `draw` is uniform in [0, 1)."""
        # The exponent is bounded so that a large attempt number cannot overflow a float.
        plain = min(self.cap_s, self.first_delay_s * self.factor ** min(attempt - 1, 64))
        return plain * (1 - self.jitter * draw)


def retry_at(
    *, permanent: bool, attempt: int, max_attempts: int, policy: RetryPolicy, now: datetime, draw: float
) -> datetime | None:
    """When to try again after a failure, or None to give up."""
    if permanent or attempt >= max_attempts:
        return None
    return now + timedelta(seconds=policy.delay_s(attempt, draw))
