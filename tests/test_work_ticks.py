"""What happens now and then, with the clock as an argument."""

import os
import sqlite3
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

import rows
from dicom_node.core.errors import StoreBusy
from dicom_node.core.job import JobKind, JobState
from dicom_node.core.retention import RetentionPolicy
from dicom_node.core.study import SettlePolicy, StudyState
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.jobs import NewJob, claim, enqueue, renew
from dicom_node.store.overview import JobFilter, job_lines
from dicom_node.store.process import Bells
from dicom_node.store.schema import images, jobs, studies
from dicom_node.telemetry.audit_message import AuditKind
from dicom_node.work.ticks import Ticks

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clock:
    now = NOW

    def __call__(self):
        return self.now


class Monotonic:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def ticks(tmp_path):
    layout = Layout(tmp_path / "data")
    layout.create()
    database = open_database(layout.database, NOW, busy_timeout_s=0.2)
    lanes = [(JobKind.INFER, "images")]
    yield Ticks(
        database,
        layout,
        Bells(layout.bells),
        SettlePolicy(30, 1800),
        lanes,
        clock=Clock(),
        monotonic=Monotonic(),
    )
    database.close()


class Told(list):
    def record(self, event):
        self.append(event)


def receive(ticks, digest="d" * 64):
    with ticks.database.write() as conn:
        return rows.arrive(conn, NOW, digest=digest)


def add_job(ticks, receipt, **facts):
    job = NewJob(JobKind.INFER, "images", 20, receipt.study_id, receipt.image_id, max_attempts=3, **facts)
    with ticks.database.write() as conn:
        return enqueue(conn, job, NOW)


def states(ticks):
    with ticks.database.read() as conn:
        return [line.state for line in job_lines(conn, JobFilter())]


def test_a_quiet_study_settles_and_lets_its_held_work_go(ticks):
    add_job(ticks, receive(ticks), held=True)
    ticks.settle_studies()
    assert states(ticks) == [JobState.HELD]
    ticks.clock.now = NOW + timedelta(seconds=30)
    ticks.settle_studies()
    assert states(ticks) == [JobState.WAITING]


def test_a_clock_set_back_delays_no_study(ticks):
    add_job(ticks, receive(ticks), held=True)
    ticks.clock.now = NOW - timedelta(hours=5)
    ticks.settle_studies()
    assert states(ticks) == [JobState.HELD]
    ticks.clock.now += timedelta(seconds=31)
    ticks.settle_studies()
    assert states(ticks) == [JobState.WAITING]


def test_a_lease_that_nobody_renews_is_taken_back_whatever_the_clock_says(ticks):
    add_job(ticks, receive(ticks))
    with ticks.database.write() as conn:
        claim(conn, JobKind.INFER, "images", limit=1, owner="dead", lease_s=30, now=NOW)
    for hours in (0, 5, -5):  # no time of day ends it
        ticks.clock.now = NOW + timedelta(hours=hours)
        ticks.reap()
        assert states(ticks) == [JobState.RUNNING]
    for _ in range(12):
        ticks.monotonic.now += 10
        ticks.reap()
    assert states(ticks) == [JobState.WAITING]


def test_a_lease_that_is_renewed_stays_and_one_that_could_not_be_renewed_too(ticks):
    add_job(ticks, receive(ticks))
    with ticks.database.write() as conn:
        claimed = claim(conn, JobKind.INFER, "images", limit=1, owner="alive", lease_s=30, now=NOW)
    for second in range(0, 400, 10):
        ticks.monotonic.now = second
        with ticks.database.write() as conn:
            renew(conn, claimed, NOW + timedelta(seconds=second + 30))
        ticks.reap()
    holder = sqlite3.connect(ticks.layout.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")  # as on a full disk, nobody can write
    for second in range(400, 640, 40):
        ticks.monotonic.now = second
        with pytest.raises(StoreBusy):
            ticks.reap()
    holder.close()
    for _ in range(11):
        ticks.monotonic.now += 10
        ticks.reap()
    assert states(ticks) == [JobState.RUNNING]


def test_only_files_without_a_row_are_swept(ticks):
    receive(ticks, digest="a" * 64)
    layout = ticks.layout
    owned, orphan, foreign = (layout.source(letter * 64) for letter in "abc")
    spooled, busy = layout.incoming / "half.dcm", layout.incoming / "busy.dcm"
    for path in (owned, orphan, foreign, spooled, busy):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    older = (NOW - timedelta(hours=2)).timestamp()
    os.utime(foreign, (older, older))  # older than this database: another one may know it
    ticks.clock.now = NOW + timedelta(days=1)  # a clock set forward makes nothing old
    ticks.sweep()
    assert [p.exists() for p in (owned, orphan, foreign, spooled, busy)] == [True, False, True, True, True]
    ticks.monotonic.now = 3599
    busy.write_bytes(b"xx")
    ticks.sweep()
    ticks.monotonic.now = 3600
    ticks.sweep()
    assert [spooled.exists(), busy.exists()] == [False, True]


def test_readers_that_follow_each_other_do_not_make_the_write_ahead_log_grow(ticks, monkeypatch):
    monkeypatch.setattr("dicom_node.work.ticks._MOST_WAL_BYTES", 1 << 20)
    receive(ticks)
    enough, readers = threading.Event(), []

    def read():
        while not enough.is_set():
            with ticks.database.read() as conn:
                conn.scalar(select(jobs.c.id).limit(1))
                time.sleep(0.3)

    for _ in range(3):  # each begins before the one before has ended
        readers.append(threading.Thread(target=read))
        readers[-1].start()
        time.sleep(0.1)
    try:
        sizes = []
        for letter in "abcd":
            with ticks.database.write() as conn:
                conn.execute(update(images).values(skip_sentence=letter * 2_000_000))
            sizes.append(ticks.database.wal_bytes())
            ticks.bound_wal()
            assert ticks.database.wal_bytes() < 1 << 20
        assert min(sizes) > 2_000_000
    finally:
        enough.set()
        for reader in readers:
            reader.join()


def test_a_purge_is_audited_and_counted_only_if_something_went(ticks, caplog):
    caplog.set_level("INFO")
    told = Told()
    ticks = replace(ticks, trail=told, retention=RetentionPolicy(max_age=timedelta(days=1)))
    study = receive(ticks).study_id
    ticks._purge([study], NOW)  # still being received: held back at the last moment
    assert told == []
    assert not [r for r in caplog.records if r.action == "studies-purged"]
    with ticks.database.write() as conn:
        conn.execute(update(images).values(decision="accepted"))
        conn.execute(update(studies).values(state=StudyState.SETTLED))
    ticks._purge([study], NOW)
    ticks._purge([study], NOW + timedelta(days=1))
    (event,) = told
    assert (event.kind, event.things[0].id) == (AuditKind.STUDY_DELETED, "1.2")
    assert event.things[0].instances == (("1.2.840.10008.5.1.4.1.1.6.1", 1),)
    (line,) = [r for r in caplog.records if r.action == "studies-purged"]
    assert line.count == 1
