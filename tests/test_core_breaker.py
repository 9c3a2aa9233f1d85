"""The circuit breaker as a table and as arithmetic; its attempts and pauses."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from dicom_node.core.breaker import (
    BREAKER_TRANSITIONS,
    Breaker,
    BreakerEvent,
    BreakerPolicy,
    BreakerState,
    answered,
    failed,
    hurried,
    tried,
    undecided,
)
from dicom_node.core.errors import AWAY_CODES, TROUBLE_CODES, IllegalTransition
from dicom_node.core.job import JobKind, RetryPolicy

NOW = datetime(2026, 1, 31, 3, 12, tzinfo=UTC)
POLICY = BreakerPolicy(failures=3, pauses=RetryPolicy(first_delay_s=15, factor=2, cap_s=120, jitter=0.2))


def fail(breaker, kind=JobKind.DELIVER, now=NOW, draw=0.0):
    return failed(breaker, kind, POLICY, now, draw, code="destination-unreachable", text="no connection")


def opened():
    breaker = Breaker()
    for _ in range(3):
        breaker = fail(breaker)
    return breaker


@pytest.mark.parametrize(("state", "event"), list(product(BreakerState, BreakerEvent)))
def test_every_change_is_in_the_table_or_refused(state, event):
    breaker = Breaker(state=state, failures=5, kind=JobKind.DELIVER)
    change = {
        BreakerEvent.ANSWER: lambda: answered(breaker, JobKind.DELIVER),
        BreakerEvent.FAIL: lambda: fail(replace(breaker, failures=0)),
        BreakerEvent.TRIP: lambda: fail(breaker),
        BreakerEvent.TRY: lambda: tried(breaker, JobKind.DELIVER),
        BreakerEvent.SHRUG: lambda: undecided(breaker),
        BreakerEvent.HURRY: lambda: hurried(breaker),
    }[event]
    if (state, event) in BREAKER_TRANSITIONS:
        assert change().state is BREAKER_TRANSITIONS[state, event]
    elif event in (BreakerEvent.FAIL, BreakerEvent.TRIP):
        # A failure is FAIL or TRIP by the state it meets, so the other of the two cannot be asked for.
        assert change().state is BreakerState.OPEN
    else:
        with pytest.raises(IllegalTransition, match=f"is {state} cannot {event}"):
            change()


def test_every_state_and_event_is_used():
    assert {event for _, event in BREAKER_TRANSITIONS} == set(BreakerEvent)
    assert set(BREAKER_TRANSITIONS.values()) == set(BreakerState)


def test_the_third_failure_in_a_row_opens_it_and_an_answer_between_begins_anew():
    twice = fail(fail(Breaker()))
    assert twice.state is BreakerState.CLOSED
    assert answered(twice, JobKind.DELIVER) == Breaker()
    third = fail(twice, now=NOW + timedelta(minutes=1))
    assert (third.state, third.since) == (BreakerState.OPEN, NOW)


def test_pauses_double_up_to_the_cap_and_are_spread():
    breaker, pauses = opened(), []
    for _ in range(6):
        pauses.append((breaker.next_try_at - NOW).total_seconds())
        breaker = fail(tried(breaker, JobKind.DELIVER))
    assert pauses == [15, 30, 60, 120, 120, 120]
    assert fail(tried(opened(), JobKind.DELIVER), draw=0.5).next_try_at == NOW + timedelta(seconds=27)


def test_failures_that_were_under_way_when_it_opened_do_not_make_the_pause_longer():
    late = fail(opened(), now=NOW + timedelta(seconds=1))
    assert (late.pauses, late.next_try_at) == (1, NOW + timedelta(seconds=15))
    out = tried(opened(), JobKind.DELIVER)
    assert fail(out, JobKind.CONFIRM) == out


def test_an_answered_question_does_not_clear_what_storing_failed_at():
    assert answered(opened(), JobKind.CONFIRM) == opened()
    assert answered(tried(opened(), JobKind.CONFIRM), JobKind.CONFIRM) == Breaker()


def test_a_pause_is_over_when_its_time_has_come_or_makes_no_sense():
    breaker = opened()
    assert not breaker.may_try(POLICY, NOW + timedelta(seconds=14))
    assert breaker.may_try(POLICY, NOW + timedelta(seconds=15))
    assert breaker.may_try(POLICY, NOW - timedelta(days=3))  # the clock was set back
    assert hurried(breaker).may_try(POLICY, NOW)


def test_only_failures_without_an_object_in_play_give_attempts_back():
    away = {"destination-unreachable", "destination-rejected", "association-unanswered"}
    assert away <= set(AWAY_CODES)
    assert {"destination-aborted", "destination-silent", "destination-busy"} <= set(TROUBLE_CODES) - away
