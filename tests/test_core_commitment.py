"""Storage commitment as tables: every change is in the table or refused, every reason has a remedy."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from dicom_node.core.commitment import (
    COMMITMENT_TRANSITIONS,
    ITEM_TRANSITIONS,
    CommitmentEvent,
    CommitmentState,
    ItemEvent,
    ItemState,
    Remedy,
    Said,
    Step,
    next_step,
    reason_text,
    remedy_for,
)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TIMEOUT = timedelta(seconds=300)


def test_every_state_can_be_reached_and_every_event_is_used():
    assert set(COMMITMENT_TRANSITIONS.values()) | {CommitmentState.INTENDED} == set(CommitmentState)
    assert {event for _, event in COMMITMENT_TRANSITIONS} == set(CommitmentEvent)
    assert set(ITEM_TRANSITIONS.values()) | {ItemState.PENDING} == set(ItemState)
    assert {event for _, event in ITEM_TRANSITIONS} == set(ItemEvent)


def test_a_report_is_taken_in_every_state_and_nothing_undoes_it():
    for state in CommitmentState:
        assert COMMITMENT_TRANSITIONS[state, CommitmentEvent.REPORT] is CommitmentState.REPORTED
    leaving = {after for (state, _), after in COMMITMENT_TRANSITIONS.items() if state == "reported"}
    assert leaving == {CommitmentState.REPORTED}


def test_an_item_event_leads_to_one_state_and_nothing_leaves_closed():
    for (
        event
    ) in ItemEvent:  # store.commitments sets the state after an event without asking for the one before
        assert len({after for (_, known), after in ITEM_TRANSITIONS.items() if known is event}) == 1
    assert not [state for state, _ in ITEM_TRANSITIONS if state is ItemState.CLOSED]


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (0x0110, Remedy.ASK_LATER),
        (0x0112, Remedy.SEND_AGAIN),
        (0x0119, Remedy.PARK),
        (0x0122, Remedy.PARK),
        (0x0131, Remedy.ASK_ANEW),
        (0x0213, Remedy.ASK_LATER),
        (0x7777, Remedy.ASK_LATER),
        (None, Remedy.ASK_LATER),
    ],
)
def test_every_failure_reason_has_a_remedy_and_words(reason, remedy):
    assert remedy_for(reason) is remedy
    assert reason_text(reason).startswith("no reason given" if reason is None else f"0x{reason:04X} (")


def said(item, transaction, due_s=100):
    return Said(item, 0x0110, transaction, NOW + timedelta(seconds=due_s))


@pytest.mark.parametrize(("item", "transaction"), list(product(ItemState, CommitmentState)))
def test_the_next_step_for_every_state_of_item_and_transaction(item, transaction):
    if item is ItemState.CLOSED:
        return  # never read
    wanted = {ItemState.COMMITTED: Step.CONFIRM, ItemState.FAILED: Step.REMEDY}.get(
        item, Step.WAIT if transaction is CommitmentState.ASKED else Step.ASK
    )
    assert next_step([said(item, transaction)], NOW, TIMEOUT) is wanted


def test_the_next_step_where_there_is_more_than_one_transaction():
    pending = said(ItemState.PENDING, CommitmentState.ASKED)
    failed = said(ItemState.FAILED, CommitmentState.REPORTED)
    committed = said(ItemState.COMMITTED, CommitmentState.REPORTED)
    assert next_step([], NOW, TIMEOUT) is Step.ASK
    assert next_step([pending, failed], NOW, TIMEOUT) is Step.WAIT
    assert next_step([failed, pending], NOW, TIMEOUT) is Step.REMEDY
    assert next_step([failed, committed], NOW, TIMEOUT) is Step.CONFIRM


@pytest.mark.parametrize("due_s", [0, -1, 301])  # over; over; written before the clock was set back
def test_nobody_waits_for_a_report_that_is_overdue(due_s):
    overdue = said(ItemState.PENDING, CommitmentState.ASKED, due_s)
    assert next_step([overdue], NOW, TIMEOUT) is Step.ASK
