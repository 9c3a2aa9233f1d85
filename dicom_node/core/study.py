"""Studies: the view people look at. Images never wait for them; summaries and held deliveries do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class StudyState(StrEnum):
    """Where a study stands."""

    RECEIVING = "receiving"
    SETTLED = "settled"
    PURGED = "purged"


class StudyEvent(StrEnum):
    """What can happen to a study."""

    ARRIVE = "arrive"
    SETTLE = "settle"
    PURGE = "purge"


STUDY_TRANSITIONS: dict[tuple[StudyState, StudyEvent], StudyState] = {
    (StudyState.RECEIVING, StudyEvent.ARRIVE): StudyState.RECEIVING,
    (StudyState.RECEIVING, StudyEvent.SETTLE): StudyState.SETTLED,
    (StudyState.SETTLED, StudyEvent.ARRIVE): StudyState.RECEIVING,  # revision + 1
    (StudyState.SETTLED, StudyEvent.PURGE): StudyState.PURGED,
    (StudyState.PURGED, StudyEvent.ARRIVE): StudyState.RECEIVING,  # revision + 1
}


@dataclass(frozen=True, slots=True)
class SettlePolicy:
    """When a study counts as complete."""

    quiet_s: float = 30.0
    """Seconds without a new image. Longer than the slowest gap between two images of one exam."""
    max_wait_s: float = 1800.0
    """Seconds after the first image at which the study settles even if images keep coming."""


def is_settled(first: datetime, last: datetime, now: datetime, policy: SettlePolicy) -> bool:
    """Has the study, first and last received at these times, been quiet or open for long enough?"""
    quiet = timedelta(seconds=policy.quiet_s)
    longest = timedelta(seconds=policy.max_wait_s)
    return now - last >= quiet or now - first >= longest
