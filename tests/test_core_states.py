"""State tables: every (state, event) pair is in the table or refused; retries as arithmetic."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from dicom_node.core.delivery import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState
from dicom_node.core.errors import IllegalTransition
from dicom_node.core.job import (
    JOB_TRANSITIONS,
    JobEvent,
    JobState,
    RetryPolicy,
    next_state,
    retry_at,
    states_before,
)
from dicom_node.core.room import ROOM_TRANSITIONS, Level, RoomState, Watermarks
from dicom_node.core.study import STUDY_TRANSITIONS, SettlePolicy, StudyEvent, StudyState, is_settled

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(("state", "event"), list(product(JobState, JobEvent)))
def test_every_job_change_is_in_the_table_or_refused(state, event):
    if (state, event) in JOB_TRANSITIONS:
        assert next_state(state, event) is JOB_TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"a {state} job cannot {event}"):
            next_state(state, event)


@pytest.mark.parametrize("event", list(JobEvent))
def test_an_event_leads_to_one_state_wherever_it_happens(event):
    # store.jobs compares with all states before an event and sets the one after it.
    assert len({JOB_TRANSITIONS[state, event] for state in states_before(event)}) == 1


def test_nothing_leaves_done():
    assert not [pair for pair in JOB_TRANSITIONS if pair[0] is JobState.DONE]


def test_every_state_can_be_reached():
    assert set(JOB_TRANSITIONS.values()) | {JobState.HELD} == set(JobState)
    assert set(DELIVERY_TRANSITIONS.values()) == set(DeliveryState)
    assert set(STUDY_TRANSITIONS.values()) == set(StudyState)


def test_every_event_is_used():
    assert {event for _, event in JOB_TRANSITIONS} == set(JobEvent)
    assert {event for _, event in DELIVERY_TRANSITIONS} == set(DeliveryEvent)
    assert {event for _, event in STUDY_TRANSITIONS} == set(StudyEvent)


def test_room_is_refused_below_the_low_mark_and_given_again_above_the_high_one():
    assert set(ROOM_TRANSITIONS) == set(product(RoomState, Level))
    marks, state, seen = Watermarks(low=100, resume=125), RoomState.TAKING, []
    for free in (200, 110, 99, 110, 124, 125, 110):
        state = ROOM_TRANSITIONS[state, marks.level(free)]
        seen.append(state is RoomState.TAKING)
    assert seen == [True, True, False, False, False, True, True]
    assert marks.lowered(0.5) == Watermarks(50, 62)


@pytest.mark.parametrize(
    ("attempt", "draw", "seconds"),
    [
        (1, 0.0, 30),  # the first delay
        (2, 0.0, 60),  # times two
        (3, 0.0, 120),
        (8, 0.0, 3600),  # 30 * 2^7 = 3840, capped
        (3, 1.0, 96),  # 120 less the whole jitter of 20 %
        (1000, 0.0, 3600),  # no overflow
    ],
)
def test_delays_double_up_to_the_cap(attempt, draw, seconds):
    policy = RetryPolicy(first_delay_s=30, factor=2, cap_s=3600, jitter=0.2)
    again = retry_at(permanent=False, attempt=attempt, max_attempts=2000, policy=policy, now=NOW, draw=draw)
    assert again == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(("permanent", "attempt"), [(True, 1), (False, 10), (False, 11)])
def test_permanent_or_exhausted_is_not_tried_again(permanent, attempt):
    policy = RetryPolicy()
    assert (
        retry_at(permanent=permanent, attempt=attempt, max_attempts=10, policy=policy, now=NOW, draw=0.0)
        is None
    )


@pytest.mark.parametrize(
    ("since_first", "since_last", "settled"),
    [(29, 29, False), (30, 30, True), (1000, 5, False), (1800, 1, True)],
)
def test_a_study_settles_when_quiet_or_open_for_too_long(since_first, since_last, settled):
    policy = SettlePolicy(quiet_s=30, max_wait_s=1800)
    first, last = NOW - timedelta(seconds=since_first), NOW - timedelta(seconds=since_last)
    assert is_settled(first, last, NOW, policy) is settled
