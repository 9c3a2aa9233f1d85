"""Storage commitment on a real SQLite file: the race between a report and the job that waits for it."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, update

import rows
from dicom_node.core.commitment import (
    COMMITMENT_TRANSITIONS,
    CommitmentEvent,
    CommitmentState,
    ItemState,
    Report,
)
from dicom_node.core.delivery import DeliveryEvent, DeliveryState
from dicom_node.core.errors import IllegalTransition
from dicom_node.core.job import JobKind
from dicom_node.store import jobs as queue
from dicom_node.store.commitments import (
    close_items,
    give_up_unanswered,
    has_news,
    move_commitment,
    open_commitment,
    record_report,
    said_of,
)
from dicom_node.store.database import open_database
from dicom_node.store.recovery import take_back
from dicom_node.store.results import NewResult, add_delivery, add_result, delivery_state, move_delivery
from dicom_node.store.schema import commitment_items, commitments, deliveries, jobs

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LANE = "archive"


def later(seconds):
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def database(tmp_path):
    database = open_database(tmp_path / "state.sqlite", NOW)
    yield database
    database.close()


@pytest.fixture
def delivery(database):
    """One that was accepted, with its confirm job."""
    result = NewResult("2.25.1", "1.2", "2.25.3", "2.25.2", "b-1", "d" * 64, 1, 0, {})
    with database.write() as conn:
        receipt = rows.arrive(conn, NOW)
        number = add_delivery(conn, add_result(conn, receipt.image_id, result, NOW), LANE)
        move_delivery(conn, number, DeliveryEvent.STORE, accepted_at=NOW)
        job = queue.NewJob(
            JobKind.CONFIRM, LANE, 20, receipt.study_id, receipt.image_id, max_attempts=2, delivery_id=number
        )
        queue.enqueue(conn, job, NOW)
    return number


def claim(conn, at=NOW):
    return queue.claim(conn, JobKind.CONFIRM, LANE, limit=9, owner="x", lease_s=30, now=at)


def ask(database, delivery, uid="2.25.7"):
    with database.write() as conn:
        return open_commitment(conn, LANE, uid, [delivery], now=NOW, expires_at=later(300))


def report(database, uid="2.25.7", kept=("2.25.1",), failed=None, senders=(LANE,)):
    with database.write() as conn:
        return record_report(conn, Report(uid, frozenset(kept), failed or {}), senders, later(1))


def put_back(database, job, delivery):
    """As the work loop does: in one transaction, look for what came while the job ran, and put it back."""
    with database.write() as conn:
        until = None if has_news(conn, delivery) else later(300)
        queue.postpone(conn, job, NOW, until=until, counted=True, text="asked")


def is_due(database):
    with database.read() as conn:
        return queue.next_due(conn, JobKind.CONFIRM, LANE, later(2)) == later(2)


@pytest.mark.parametrize("first", ["report", "postpone"])
def test_whichever_comes_first_the_job_does_not_sleep_through_the_report(database, delivery, first):
    with database.write() as conn:
        (job,) = claim(conn)
    ask(database, delivery)
    if first == "report":
        assert report(database) == (LANE, 0)
        put_back(database, job, delivery)
    else:
        put_back(database, job, delivery)
        assert not is_due(database)
        assert report(database) == (LANE, 0)
    assert is_due(database)


def test_nor_if_both_come_at_once(tmp_path, database, delivery):
    for number in range(20):
        with database.write() as conn:
            (job,) = claim(conn, later(2))
        ask(database, delivery, uid := f"2.25.{100 + number}")
        together = threading.Barrier(2)
        other = open_database(tmp_path / "state.sqlite", NOW)

        def reports(uid=uid, together=together, other=other):
            together.wait()
            report(other, uid)

        thread = threading.Thread(target=reports)
        thread.start()
        together.wait()
        put_back(database, job, delivery)
        thread.join()
        other.close()
        assert is_due(database), number
        with database.write() as conn:
            close_items(conn, delivery)


def test_a_postponed_job_keeps_or_gets_back_its_attempt(database, delivery):
    for counted, attempts in ((True, 1), (False, 1), (True, 2)):
        with database.write() as conn:
            (job,) = claim(conn)
            queue.postpone(conn, job, NOW, until=None, counted=counted, text="x")
            assert conn.scalar(select(jobs.c.attempts)) == attempts


def test_a_job_that_runs_is_not_woken(database, delivery):
    with database.write() as conn:
        (job,) = claim(conn)
        queue.wake(conn, JobKind.CONFIRM, [delivery], NOW, "x")
        queue.finish(conn, job, NOW)


def test_a_report_is_only_taken_from_those_who_were_asked_and_the_first_one_counts(database, delivery):
    ask(database, delivery)
    assert report(database, senders=()) is None
    assert report(database, senders=("other",)) is None
    assert report(database, uid="2.25.8") is None
    assert report(database, kept=(), failed={"2.25.1": 0x0112}) == (LANE, 1)
    assert report(database) == (LANE, 0)
    with database.read() as conn:
        ((said,),) = said_of(conn, [delivery]).values()
    assert (said.item, said.reason) == (ItemState.FAILED, 0x0112)


def test_an_instance_that_is_both_committed_and_failed_failed(database, delivery):
    ask(database, delivery)
    assert report(database, failed={"2.25.1": 0x0110}) == (LANE, 1)


def test_what_was_acted_upon_counts_no_more(database, delivery):
    ask(database, delivery)
    report(database, kept=(), failed={"2.25.1": None})
    with database.write() as conn:
        assert has_news(conn, delivery)
        close_items(conn, delivery)
        assert not has_news(conn, delivery)
        assert said_of(conn, [delivery]) == {}


def test_only_what_is_overdue_or_was_cut_short_is_given_up(database, delivery):
    states = {}
    for uid, event in (
        ("2.25.1", None),
        ("2.25.2", CommitmentEvent.TAKE),
        ("2.25.3", CommitmentEvent.REFUSE),
    ):
        number = ask(database, delivery, uid)
        with database.write() as conn:
            if event:
                move_commitment(conn, number, event, NOW)
            states[uid] = number
    for at, wanted in ((later(299), "asked"), (later(300), "expired")):
        with database.write() as conn:
            give_up_unanswered(conn, "other", at)
            give_up_unanswered(conn, LANE, at)
            found = conn.scalars(select(commitments.c.state).order_by(commitments.c.id)).all()
        assert found == ["expired", wanted, "refused"]


@pytest.mark.parametrize("event", list(CommitmentEvent))
@pytest.mark.parametrize("state", list(CommitmentState))
def test_every_change_is_in_the_table_or_refused(database, delivery, state, event):
    number = ask(database, delivery)
    with database.write() as conn:
        conn.execute(update(commitments).values(state=state))
    if (state, event) in COMMITMENT_TRANSITIONS:
        with database.write() as conn:
            move_commitment(conn, number, event, NOW)
            assert conn.scalar(select(commitments.c.state)) == COMMITMENT_TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition), database.write() as conn:
            move_commitment(conn, number, event, NOW)


def test_a_delivery_whose_asking_never_ends_is_parked(database, delivery):
    for _ in range(2):
        with database.write() as conn:
            claim(conn)
            take_back(conn, NOW, kind=JobKind.CONFIRM, lane=LANE, leases=None)
    with database.read() as conn:
        assert delivery_state(conn, delivery) is DeliveryState.PARKED


def test_a_delivery_that_is_purged_takes_its_transactions_items_along(database, delivery):
    ask(database, delivery)
    with database.write() as conn:
        conn.execute(delete(jobs))
        conn.execute(delete(deliveries))
        assert conn.execute(select(commitment_items)).all() == []


def test_a_late_failure_of_an_earlier_transaction_is_no_news(database, delivery):
    """Or the job that waits for the newer report would be put back at once, again and again."""
    ask(database, delivery, "2.25.7")
    ask(database, delivery, "2.25.8")
    report(database, "2.25.7", kept=(), failed={"2.25.1": 0x0112})
    with database.read() as conn:
        assert not has_news(conn, delivery)
    report(database, "2.25.8", kept=(), failed={"2.25.1": 0x0112})
    with database.read() as conn:
        assert has_news(conn, delivery)
