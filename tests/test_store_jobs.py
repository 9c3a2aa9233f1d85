"""The queue on a real SQLite file: leases, retries, operators, and two processes at once."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

import rows
from dicom_node.core.delivery import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState
from dicom_node.core.errors import IllegalTransition, NoSuchJob, StaleLease
from dicom_node.core.job import JobKind, JobState
from dicom_node.store import jobs as queue
from dicom_node.store.database import open_database
from dicom_node.store.operator import cancel_job, retry_job
from dicom_node.store.overview import job_history
from dicom_node.store.recovery import take_back
from dicom_node.store.results import NewResult, add_delivery, add_result, delivery_state, move_delivery
from dicom_node.store.schema import deliveries, jobs

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LANE = "images"


def later(seconds):
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def database(tmp_path):
    database = open_database(tmp_path / "state.sqlite", NOW)
    yield database
    database.close()


@pytest.fixture
def receipt(database):
    with database.write() as conn:
        return rows.arrive(conn, NOW)


def add(database, receipt, **values):
    facts = {"priority": 20, "max_attempts": 3} | values
    job = queue.NewJob(
        kind=JobKind.INFER, lane=LANE, study_id=receipt.study_id, image_id=receipt.image_id, **facts
    )
    with database.write() as conn:
        return queue.enqueue(conn, job, NOW)


def claim(database, limit=10, now=NOW, **options):
    with database.write() as conn:
        return queue.claim(
            conn, JobKind.INFER, LANE, limit=limit, owner="test:1", lease_s=30, now=now, **options
        )


def state_of(database, job_id):
    with database.read() as conn:
        return conn.scalar(select(jobs.c.state).where(jobs.c.id == job_id))


def test_urgent_first_then_oldest(database, receipt):
    routine, stat, second = (add(database, receipt, priority=p) for p in (20, 0, 20))
    assert [job.id for job in claim(database)] == [stat, routine, second]


def test_by_age_alone_the_oldest_are_taken_and_still_the_most_urgent_of_them_comes_first(database, receipt):
    oldest, stat, later, last = (add(database, receipt, priority=p) for p in (20, 0, 20, 0))
    taken = claim(database, limit=2, first=queue.First.OLDEST)
    assert [job.id for job in taken] == [stat, oldest]
    assert [job.id for job in claim(database, limit=1)] == [last]
    assert [job.id for job in claim(database)] == [later]


def test_a_claimed_job_is_claimed_once(database, receipt):
    add(database, receipt)
    assert len(claim(database)) == 1
    assert claim(database) == []


def test_a_job_is_not_due_before_its_time(database, receipt):
    add(database, receipt, not_before=later(60))
    assert claim(database) == []
    assert len(claim(database, now=later(60))) == 1


def test_held_jobs_wait_for_their_study(database, receipt):
    job = add(database, receipt, held=True)
    assert claim(database) == []
    with database.write() as conn:
        assert queue.release_held(conn, receipt.study_id, NOW) == [LANE]
    assert [claimed.id for claimed in claim(database)] == [job]


def test_a_stale_lease_changes_nothing(database, receipt):
    add(database, receipt)
    (late,) = claim(database)
    with database.write() as conn:
        queue.expire(conn, later(31), kind=JobKind.INFER, lane=LANE, leases=[late.lease_token])
    (current,) = claim(database, now=later(31))
    with pytest.raises(StaleLease), database.write() as conn:
        queue.finish(conn, late, later(32))
    with database.write() as conn:
        queue.finish(conn, current, later(33))
    assert state_of(database, current.id) == JobState.DONE


def test_only_leases_that_ended_are_taken_back(database, receipt):
    add(database, receipt)
    add(database, receipt)
    dead, alive = claim(database)
    with database.write() as conn:
        queue.renew(conn, [alive], later(100))
        leases = queue.confirm_leases(conn)
        assert leases == {dead.lease_token: later(30), alive.lease_token: later(100)}
        queue.expire(conn, NOW, kind=JobKind.INFER, lane=LANE, leases=[dead.lease_token])
    assert [state_of(database, job.id) for job in (dead, alive)] == [JobState.WAITING, JobState.RUNNING]


def test_a_clock_set_back_stretches_no_wait(database, receipt):
    add(database, receipt)
    (job,) = claim(database)
    with database.write() as conn:
        queue.retry(conn, job, NOW, not_before=later(60), code="x", text="x")
        add_long_ago = queue.NewJob(
            JobKind.INFER, LANE, 20, receipt.study_id, receipt.image_id, 3, not_before=later(30)
        )
        other = queue.enqueue(conn, add_long_ago, later(-8 * 3600))
    before = later(-5 * 3600)  # the clock was set back by five hours
    assert claim(database, now=before) == []
    with database.write() as conn:
        assert queue.mend_waits(conn, before) == 1  # the other one's time was set before: it waits as it did
    with database.write() as conn:
        assert queue.mend_waits(conn, before) == 0
    assert claim(database, now=before + timedelta(seconds=59)) == []
    assert [c.id for c in claim(database, now=before + timedelta(seconds=60))] == [job.id]
    assert [c.id for c in claim(database, now=later(30))] == [other]


def test_whoever_holds_the_lane_takes_back_even_fresh_leases(database, receipt):
    job = add(database, receipt)
    claim(database)
    with database.write() as conn:
        queue.expire(conn, later(1), kind=JobKind.INFER, lane=LANE, leases=None)
    assert state_of(database, job) == JobState.WAITING


def test_a_job_that_never_reports_an_end_runs_out_of_attempts(database, receipt):
    job = add(database, receipt, max_attempts=2)
    for attempt in (1, 2):
        (claimed,) = claim(database)
        assert claimed.attempts == attempt
        with database.write() as conn:
            exhausted = queue.expire(conn, NOW, kind=JobKind.INFER, lane=LANE, leases=None)
    assert exhausted == [(job, None)]
    with database.read() as conn:
        line, events = job_history(conn, job)
    assert (line.state, line.error_code) == (JobState.FAILED, "attempts-exhausted")
    assert [event.event for event in events] == ["claim", "expire", "claim", "exhaust"]


def test_a_job_tried_before_is_claimed_alone(database, receipt):
    first, second, third = (add(database, receipt) for _ in range(3))
    (poison, *_rest) = claim(database)
    with database.write() as conn:  # the worker died with all three in hand
        queue.expire(conn, NOW, kind=JobKind.INFER, lane=LANE, leases=None)
    assert poison.id == first
    fourth = add(database, receipt, priority=0)
    batches = [[job.id for job in claim(database, retries_alone=True)] for _ in range(4)]
    assert batches == [[fourth], [first], [second], [third]]


def test_a_clock_set_back_freezes_nothing(database, receipt):
    add(database, receipt)
    add(database, receipt, not_before=later(60))
    years_ago = NOW - timedelta(days=3000)
    assert len(claim(database, now=years_ago)) == 2


def test_trouble_of_the_node_uses_up_no_attempt(database, receipt):
    add(database, receipt, max_attempts=1)
    for _ in range(5):
        (claimed,) = claim(database)
        with database.write() as conn:
            queue.retry(conn, claimed, NOW, not_before=None, code="x", text="disk", counted=False)
    assert [claimed.attempts for claimed in claim(database)] == [1]


def test_a_delivery_whose_sending_never_ends_is_parked(database, receipt):
    delivery, job = delivery_job(database, receipt)
    with database.write() as conn:
        queue.claim(conn, JobKind.DELIVER, "archive", limit=1, owner="x", lease_s=30, now=NOW)
        take_back(conn, NOW, kind=JobKind.DELIVER, lane="archive", leases=None)
        assert delivery_state(conn, delivery) is DeliveryState.PARKED
    assert state_of(database, job) == JobState.FAILED


def test_operators_cancel_and_revive(database, receipt):
    job = add(database, receipt)
    with database.write() as conn:
        queue.cancel(conn, job, NOW, "operator x")
    refusal = f"job {job} is cancelled and cannot cancel"
    with pytest.raises(IllegalTransition, match=refusal), database.write() as conn:
        queue.cancel(conn, job, NOW, "operator x")
    with database.write() as conn:
        queue.revive(conn, job, NOW, "operator x")
    assert [claimed.attempts for claimed in claim(database)] == [1]


def test_a_job_cancelled_while_it_runs_ends_without_effect(database, receipt):
    add(database, receipt)
    (claimed,) = claim(database)
    with database.write() as conn:
        queue.cancel(conn, claimed.id, NOW, "operator x")
    with pytest.raises(StaleLease), database.write() as conn:
        queue.finish(conn, claimed, NOW)


def delivery_job(database, receipt, kind=JobKind.DELIVER):
    result = NewResult("2.25.1", "1.2", "2.25.3", "2.25.2", "b-1", "d" * 64, 1, 0, {})
    with database.write() as conn:
        delivery = add_delivery(conn, add_result(conn, receipt.image_id, result, NOW), "archive")
        job = queue.NewJob(
            kind, "archive", 20, receipt.study_id, receipt.image_id, max_attempts=1, delivery_id=delivery
        )
        return delivery, queue.enqueue(conn, job, NOW)


def test_a_retried_delivery_leaves_its_parking_place(database, receipt):
    delivery, job = delivery_job(database, receipt)
    with database.write() as conn:
        assert cancel_job(conn, job, NOW, "operator x") == ("deliver", "archive")
        assert delivery_state(conn, delivery) is DeliveryState.PARKED
        assert retry_job(conn, job, NOW, "operator x") == ("deliver", "archive")
        assert delivery_state(conn, delivery) is DeliveryState.QUEUED
    assert state_of(database, job) == JobState.WAITING


def test_what_an_archive_never_kept_is_sent_again_not_asked_for_again(database, receipt):
    delivery, job = delivery_job(database, receipt, JobKind.CONFIRM)
    with database.write() as conn:
        move_delivery(conn, delivery, DeliveryEvent.STORE)
        move_delivery(conn, delivery, DeliveryEvent.REFUSE, words="lists nothing")
        assert retry_job(conn, job, NOW, "operator x") == ("deliver", "archive")
        assert queue.times_queued(conn, JobKind.DELIVER, delivery) == 1
    assert state_of(database, job) == JobState.CANCELLED


@pytest.mark.parametrize("event", list(DeliveryEvent))
@pytest.mark.parametrize("state", list(DeliveryState))
def test_every_delivery_change_is_in_the_table_or_refused(database, receipt, state, event):
    delivery, _ = delivery_job(database, receipt)
    with database.write() as conn:
        conn.execute(update(deliveries).values(state=state))
    if (state, event) in DELIVERY_TRANSITIONS:
        with database.write() as conn:
            move_delivery(conn, delivery, event)
            assert delivery_state(conn, delivery) is DELIVERY_TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition), database.write() as conn:
            move_delivery(conn, delivery, event)


def test_an_unknown_job_is_named(database):
    with pytest.raises(NoSuchJob, match="job 99"), database.write() as conn:
        queue.cancel(conn, 99, NOW, "operator x")


def test_next_due_is_the_earliest(database, receipt):
    with database.read() as conn:
        assert queue.next_due(conn, JobKind.INFER, LANE, NOW) is None
    add(database, receipt, not_before=later(60))
    add(database, receipt, not_before=later(5))
    with database.read() as conn:
        assert queue.next_due(conn, JobKind.INFER, LANE, NOW) == later(5)
        assert queue.next_due(conn, JobKind.INFER, LANE, later(6)) == later(6)


CLAIM_ALL = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from dicom_node.core.job import JobKind
from dicom_node.store.database import open_database
from dicom_node.store.jobs import claim

now = datetime(2026, 1, 31, 12, tzinfo=UTC)
database = open_database(Path(sys.argv[1]), now)
mine = []
while True:
    with database.write() as conn:
        batch = claim(conn, JobKind.INFER, "images", limit=3, owner="x", lease_s=30, now=now)
    if not batch:
        break
    mine += [job.id for job in batch]
print(json.dumps(mine))
"""


def test_two_processes_share_the_queue_without_taking_a_job_twice(tmp_path, database, receipt):
    everything = {add(database, receipt) for _ in range(60)}
    command = [sys.executable, "-P", "-c", CLAIM_ALL, str(tmp_path / "state.sqlite")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    shares = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    assert sorted(shares[0] + shares[1]) == sorted(everything)
