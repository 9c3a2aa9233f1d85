"""What happens now and then, with the clock as an argument."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.core.image import Arrival, ImageHeader
from dicom_node.core.job import JobKind, JobState
from dicom_node.core.study import SettlePolicy
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.images import record_arrival
from dicom_node.store.jobs import NewJob, claim, enqueue
from dicom_node.store.overview import JobFilter, job_lines
from dicom_node.store.process import Bells
from dicom_node.work.ticks import Ticks

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clock:
    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def ticks(tmp_path):
    layout = Layout(tmp_path / "data")
    layout.create()
    database = open_database(layout.database, NOW)
    clock = Clock()
    lanes = [(JobKind.INFER, "images")]
    yield Ticks(database, layout, Bells(layout.bells), SettlePolicy(30, 1800), lanes, clock)
    database.close()


def receive(ticks, digest="d" * 64):
    header = ImageHeader("1.2.840.10008.5.1.4.1.1.6.1", "1.2.3", "1.2", "1.2.1", "1.2.840.10008.1.2.1")
    with ticks.database.write() as conn:
        return record_arrival(
            conn,
            header,
            Arrival("PACS", "EMODE", "127.0.0.1"),
            route="breast",
            digest=digest,
            size_bytes=1,
            skip=None,
            now=NOW,
        )


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


def test_a_lease_that_ran_out_is_taken_back(ticks):
    add_job(ticks, receive(ticks))
    with ticks.database.write() as conn:
        claim(conn, JobKind.INFER, "images", limit=1, owner="dead", lease_s=30, now=NOW)
    ticks.reap()
    assert states(ticks) == [JobState.RUNNING]
    ticks.clock.now = NOW + timedelta(seconds=31)
    ticks.reap()
    assert states(ticks) == [JobState.WAITING]


def test_only_old_files_without_a_row_are_swept(ticks):
    receive(ticks, digest="a" * 64)
    layout = ticks.layout
    owned, orphan, fresh = (layout.source(letter * 64) for letter in "abc")
    spooled = layout.incoming / "half.dcm"
    for path in (owned, orphan, fresh, spooled):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    old = (NOW - timedelta(hours=2)).timestamp()
    for path in (owned, orphan, spooled):
        os.utime(path, (old, old))
    os.utime(fresh, (NOW.timestamp(), NOW.timestamp()))
    ticks.sweep()
    assert [path.exists() for path in (owned, orphan, fresh, spooled)] == [True, False, True, False]
