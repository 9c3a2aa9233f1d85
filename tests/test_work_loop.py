"""The work loop on a real queue: what handlers do wrong, a busy database, a batch that hangs."""

import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, update

import rows
from dicom_node.core.errors import DestinationBusy, DestinationRefused
from dicom_node.core.job import JobKind, JobState, RetryPolicy
from dicom_node.store.database import open_database
from dicom_node.store.jobs import NewJob, cancel, claim, enqueue
from dicom_node.store.overview import job_history
from dicom_node.store.process import Bells
from dicom_node.store.schema import jobs
from dicom_node.work.loop import Lane, WorkLoop
from dicom_node.work.outcome import Outcome
from dicom_node.work.pulse import Pulse


def now():
    return datetime.now(UTC)


class Bench:
    """A loop in a thread, with a handler of the test's choice."""

    def __init__(self, folder):
        self.path = folder / "state.sqlite"
        self.database = open_database(self.path, now(), busy_timeout_s=0.3)
        self.bells = Bells(folder)
        self.stop, self.hung = threading.Event(), threading.Event()
        with self.database.write() as conn:
            self.receipt = rows.arrive(conn, now())

    def add(self, max_attempts=3, priority=20):
        image = self.receipt
        job = NewJob(
            JobKind.INFER, "images", priority, image.study_id, image.image_id, max_attempts=max_attempts
        )
        with self.database.write() as conn:
            return enqueue(conn, job, now())

    def run(self, handler, time_limit_s=30.0, pulse=None, batch=8):
        policy = RetryPolicy(first_delay_s=0.01, factor=1.0)
        lane = Lane(
            JobKind.INFER,
            "images",
            batch=batch,
            policy=policy,
            time_limit_s=time_limit_s,
            pulse=pulse or Pulse(),
        )
        loop = WorkLoop(
            lane,
            self.database,
            self.bells,
            handler,
            owner="test:1",
            clock=now,
            on_hang=lambda claimed: self.hung.set(),
        )
        self.thread = threading.Thread(target=loop.run, args=(self.stop,))
        self.thread.start()

    def history(self, job):
        with self.database.read() as conn:
            return job_history(conn, job)

    def wait(self, there, timeout_s=15.0):
        deadline = time.monotonic() + timeout_s
        while not there():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self):
        self.stop.set()
        self.bells.ring(JobKind.INFER, "images")
        self.thread.join(15)
        assert not self.thread.is_alive()
        self.database.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_temporary_failures_use_up_the_attempts_and_permanent_ones_end_at_once(bench):
    busy, refused = bench.add(max_attempts=2), bench.add()
    errors = {busy: DestinationBusy("x"), refused: DestinationRefused("y")}
    bench.run(lambda claimed: [Outcome(job, error=errors[job.id]) for job in claimed])
    for job in (busy, refused):
        bench.wait(lambda job=job: bench.history(job)[0].state == JobState.FAILED)
    assert [bench.history(job)[0].attempts for job in (busy, refused)] == [2, 1]
    assert bench.history(refused)[0].error_code == "destination-refused"


@pytest.mark.parametrize("batch", [1, 8])
def test_urgent_jobs_overtake_and_without_end_keep_nothing_waiting_for_ever(bench, batch):
    """The bound of docs/architecture.md: two batches for an urgent one, 4 (n / batch + 1) claims for any."""
    routine = [bench.add() for _ in range(24)]
    claims, stat = [], {}

    def work(claimed):
        claims.append([job.id for job in claimed])
        for _ in range(batch):  # as many urgent ones come as can be done
            stat[bench.add(priority=0)] = len(claims)
        return [Outcome(job) for job in claimed]

    bench.run(work, batch=batch)
    done = lambda: {job for claim in claims for job in claim}  # noqa: E731
    bench.wait(lambda: set(routine) <= done(), timeout_s=60)
    number = {job: number for number, claim in enumerate(claims) for job in claim}
    assert number[min(stat)] <= stat[min(stat)] + 1
    for rank, job in enumerate(routine):
        assert number[job] < 4 * (rank // batch + 1)


def test_a_handler_that_breaks_three_times_in_a_row_asks_for_a_fresh_process(bench):
    job = bench.add(max_attempts=10)

    def broken(claimed):
        raise ValueError("DOE^JANE")

    bench.run(broken)
    bench.wait(bench.hung.is_set)
    line, _ = bench.history(job)
    assert line.error_code == "unexpected-failure"
    assert "DOE" not in line.error_text


def test_a_disk_in_trouble_costs_no_attempt(bench):
    job = bench.add(max_attempts=1)

    def full(claimed):
        raise OSError(28, "No space left on device")

    bench.run(full)
    bench.wait(lambda: bench.history(job)[0].error_code == "node-in-trouble")
    line, _ = bench.history(job)
    assert (line.state, line.attempts) == (JobState.WAITING, 0)


def test_a_batch_that_hangs_is_noticed_although_the_database_is_locked(bench):
    bench.add()
    go_on = threading.Event()

    def hang(claimed):
        go_on.wait(20)
        return []

    bench.run(hang, time_limit_s=1.5)
    bench.wait(lambda: bench.history(1)[0].state == JobState.RUNNING)
    holder = sqlite3.connect(bench.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        bench.wait(bench.hung.is_set)
    finally:
        holder.close()
        go_on.set()


def test_a_database_that_is_locked_at_the_start_delays_the_lane_and_does_not_kill_it(bench):
    job = bench.add()
    with bench.database.write() as conn:  # as an earlier process left it
        claim(conn, JobKind.INFER, "images", limit=1, owner="gone", lease_s=999, now=now())
    holder = sqlite3.connect(bench.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    bench.run(lambda claimed: [Outcome(job) for job in claimed])
    time.sleep(1.0)
    holder.close()
    bench.wait(lambda: bench.history(job)[0].state == JobState.DONE)
    assert [event.event for event in bench.history(job)[1]] == ["claim", "expire", "claim", "finish"]


def test_a_job_cancelled_while_it_runs_has_no_effect(bench):
    job = bench.add()
    effects = []

    def slow(claimed):
        with bench.database.write() as conn:
            cancel(conn, job, now(), "operator x")
        return [Outcome(claimed[0], effect=lambda conn, at: effects.append(at))]

    bench.run(slow)
    bench.wait(lambda: bench.history(job)[0].state == JobState.CANCELLED)
    time.sleep(0.2)
    assert effects == []


def test_a_batch_of_slow_images_is_no_hang_and_one_that_hangs_in_it_is_found_in_its_own_time(bench):
    for _ in range(8):
        bench.add()
    pulse, go_on, read = Pulse(), threading.Event(), []

    def slow(claimed):
        for job in claimed:  # like `Infer`: all are read before the first one ends
            pulse.step()
            assert not bench.hung.is_set()
            read.append(job.id)
            time.sleep(0.5)
        assert not bench.hung.is_set()
        pulse.step()
        go_on.wait(30)
        return [Outcome(job) for job in claimed]

    bench.run(slow, time_limit_s=2.0, pulse=pulse)
    bench.wait(lambda: len(read) == 8)
    began = time.monotonic()
    bench.wait(bench.hung.is_set)
    assert time.monotonic() - began < 10  # not eight limits
    go_on.set()


def test_a_look_where_nothing_has_changed_asks_no_table_and_a_change_is_seen(bench):
    asked, woken = [], []
    event.listen(bench.database._writer, "before_cursor_execute", lambda *args: asked.append(args[2]))

    def handler(claimed):
        for job in claimed:
            woken.append(job.id)
            yield Outcome(job)

    bench.run(handler)
    bench.wait(lambda: asked)
    time.sleep(0.3)
    looks = len(asked)
    time.sleep(2.5)
    assert len(asked) == looks
    # Another process commits, and does not ring.
    other = open_database(bench.path, now())
    with other.write() as conn:
        image = bench.receipt
        soon = enqueue(conn, NewJob(JobKind.INFER, "images", 20, image.study_id, image.image_id, 3), now())
    bench.wait(lambda: woken == [soon], 3)
    # What is to be done later is done then, although nobody commits in between.
    with other.write() as conn:
        later = enqueue(conn, NewJob(JobKind.INFER, "images", 20, image.study_id, image.image_id, 3), now())
        at = now() + timedelta(seconds=3)
        conn.execute(update(jobs).where(jobs.c.id == later).values(not_before=at))
    other.close()
    bench.wait(lambda: woken == [soon, later], 8)
    assert now() >= at
