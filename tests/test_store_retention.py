"""What may be purged, what holds it back, a kill at every step, and what comes after a purge."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import select, update

import rows
from dicom_node.core.delivery import DeliveryEvent, DeliveryState
from dicom_node.core.errors import FilePurged
from dicom_node.core.faults import FLAG
from dicom_node.core.job import JobKind, JobState
from dicom_node.core.retention import Hold, RetentionPolicy
from dicom_node.core.study import SettlePolicy, StudyState
from dicom_node.dicom.skip import Skip, SkipCode
from dicom_node.store import jobs as queue
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.images import Novelty, decide, settle_due
from dicom_node.store.operator import retry_job
from dicom_node.store.overview import image_lines, study_lines
from dicom_node.store.process import Bells
from dicom_node.store.results import (
    NewResult,
    add_delivery,
    add_result,
    has_way_to_go,
    link_result,
    move_delivery,
)
from dicom_node.store.retention import holds_by_study, kept, kept_bytes, purge_study
from dicom_node.store.schema import deliveries, images, jobs, results, studies
from dicom_node.work.ticks import Ticks

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=31)
POLICY = RetentionPolicy(max_age=timedelta(days=30))
SIZE = 1000


class Bench:
    """A data folder with real files, and rows as the node writes them."""

    def __init__(self, folder):
        self.layout = Layout(folder / "data")
        self.layout.create()
        self.database = open_database(self.layout.database, NOW)
        self._numbers = count(1)

    def receive(self, study="1.2", sop=None, route="breast", content=None, at=NOW, skip=None):
        number = next(self._numbers)
        sop = sop or f"1.2.3.{number}"
        digest = content or f"{number:064d}"
        with self.database.write() as conn:
            self.put(self.layout.source(digest))
            return rows.arrive(
                conn, at, sop=sop, study=study, route=route, digest=digest, size_bytes=SIZE, skip=skip
            )

    def put(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * SIZE)

    def job(self, conn, receipt, kind=JobKind.INFER, lane="images", delivery=None, at=NOW):
        job = queue.NewJob(kind, lane, 20, receipt.study_id, receipt.image_id, 3, delivery)
        queue.enqueue(conn, job, at)
        (claimed,) = queue.claim(conn, kind, lane, limit=1, owner="t", lease_s=9, now=at)
        return claimed

    def infer(self, receipt, destinations=("archive",), uid=None):
        """Decide an image, and queue a result of it; return its deliveries."""
        number = next(self._numbers)
        uid = uid or f"2.25.{number}"
        digest = f"{int(uid.split('.')[-1]):064x}"
        with self.database.write() as conn:
            queue.finish(conn, self.job(conn, receipt), NOW)
            decide(conn, receipt.image_id, None, NOW)
            self.put(self.layout.result(digest))
            result = NewResult(uid, "1.2", "1.2", "2.25.3", "b-1", digest, SIZE, 0, {}, NOW)
            row = add_result(conn, receipt.image_id, result, NOW)
            return [add_delivery(conn, row, name) for name in destinations]

    def move(self, delivery, *events):
        with self.database.write() as conn:
            for event in events:
                move_delivery(conn, delivery, event)

    def settle(self, at=NOW + timedelta(hours=1)):
        with self.database.write() as conn:
            settle_due(conn, SettlePolicy(30, 1800), at)

    def proven(self, **facts):
        """A study that may go."""
        receipt = self.receive(**facts)
        for delivery in self.infer(receipt):
            self.move(delivery, DeliveryEvent.STORE, DeliveryEvent.FIND)
        self.settle()
        return receipt

    def ticks(self, policy=POLICY, now=LATER):
        return Ticks(
            self.database,
            self.layout,
            Bells(self.layout.bells),
            SettlePolicy(30, 1800),
            [(JobKind.INFER, "images")],
            clock=lambda: now,
            retention=policy,
        )

    def files(self):
        return sorted(kind for kind, _, _ in self.layout.stored())

    def value(self, column):
        with self.database.read() as conn:
            return conn.scalars(select(column).order_by(column.table.c.id)).all()

    def hold(self, study_id=1, policy=POLICY):
        with self.database.read() as conn:
            return holds_by_study(conn, [study_id], policy).get(study_id)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.database.close()


def test_a_proven_study_goes_by_age_and_its_rows_stay(bench):
    bench.proven()
    bench.ticks(now=NOW + timedelta(days=29)).retain()
    assert bench.files() == ["result", "source"]
    bench.ticks().retain()
    assert bench.files() == []
    assert bench.value(studies.c.state) == [StudyState.PURGED]
    assert [bench.value(t.c.purged_at) for t in (studies, images, results)] == [[LATER]] * 3
    with bench.database.read() as conn:
        (study,) = study_lines(conn, study="1.2", limit=1, policy=POLICY)
        (image,) = image_lines(conn, study="1.2", limit=1)
    assert (study.state, study.kept_bytes, study.confirmed, study.purged_at) == ("purged", 0, 1, LATER)
    assert (image.stage, image.purged_at) == ("confirmed", LATER)


def test_what_the_gate_skipped_at_the_door_goes_too(bench):
    bench.receive(skip=Skip(SkipCode.NOT_ULTRASOUND, "x"))
    bench.settle()
    bench.ticks().retain()
    assert bench.files() == []


def _still_receiving(bench):
    for delivery in bench.infer(bench.receive()):
        bench.move(delivery, DeliveryEvent.STORE, DeliveryEvent.FIND)


def _undecided(bench):
    bench.receive()
    bench.proven()


def _failed(bench):
    receipt = bench.receive()
    with bench.database.write() as conn:
        queue.fail(conn, bench.job(conn, receipt), NOW, code="x", text="x")
    bench.proven()


def _queued(bench):
    bench.infer(bench.receive())
    bench.proven()


def _accepted(bench):
    (delivery,) = bench.infer(bench.receive())
    bench.move(delivery, DeliveryEvent.STORE)
    bench.proven()


def _parked(bench):
    (delivery,) = bench.infer(bench.receive())
    bench.move(delivery, DeliveryEvent.REFUSE)
    bench.proven()


def _one_destination_of_two(bench):
    first, _ = bench.infer(bench.receive(), ("archive", "second"))
    bench.move(first, DeliveryEvent.STORE, DeliveryEvent.FIND)
    bench.proven()


def _work_is_left(bench):
    receipt = bench.proven()
    with bench.database.write() as conn:
        bench.job(conn, receipt)


@pytest.mark.parametrize(
    ("make", "hold"),
    [
        (_still_receiving, Hold.RECEIVING),
        (_undecided, Hold.UNDECIDED),
        (_failed, Hold.FAILED),
        (_queued, Hold.UNCONFIRMED),
        (_accepted, Hold.UNCONFIRMED),
        (_parked, Hold.PARKED),
        (_one_destination_of_two, Hold.UNCONFIRMED),
        (_work_is_left, Hold.WAITING),
    ],
)
def test_what_is_not_proven_stays_whatever_its_age_and_size(bench, make, hold):
    make(bench)
    before = bench.files()
    bench.ticks(RetentionPolicy(timedelta(days=30), max_bytes=1), now=NOW + timedelta(days=9999)).retain()
    assert bench.files() == before
    assert bench.hold() is hold
    with bench.database.read() as conn:
        (held,) = kept(conn, POLICY).held_back
        assert (held.reason, held.studies, held.size_bytes) == (hold, 1, len(before) * SIZE)
        assert purge_study(conn, 1, POLICY, LATER) == []  # nor by itself


def test_accepted_is_enough_only_where_the_configuration_says_so(bench):
    (delivery,) = bench.infer(bench.receive())
    bench.move(delivery, DeliveryEvent.STORE)
    bench.settle()
    for names, there in (({"other"}, 2), ({"archive"}, 0)):
        bench.ticks(RetentionPolicy(timedelta(days=30), accepted_is_enough=frozenset(names))).retain()
        assert len(bench.files()) == there


def test_a_failure_that_a_later_try_made_good_holds_nothing(bench):
    receipt = bench.receive()
    with bench.database.write() as conn:
        queue.fail(conn, bench.job(conn, receipt), NOW, code="x", text="x")
    for delivery in bench.infer(receipt):
        bench.move(delivery, DeliveryEvent.STORE, DeliveryEvent.FIND)
    bench.settle()
    assert bench.hold() is None


def test_over_size_the_oldest_go_first_and_no_more_than_needed(bench):
    for number in range(4):
        bench.proven(study=f"1.{number}", at=NOW - timedelta(days=number))
    with bench.database.read() as conn:
        assert kept_bytes(conn) == 8 * SIZE
    bench.ticks(RetentionPolicy(max_bytes=5 * SIZE), now=NOW).retain()
    assert bench.value(studies.c.state) == ["settled", "settled", "purged", "purged"]
    assert len(bench.files()) == 4


def test_a_file_that_two_rows_share_goes_with_the_last(bench):
    """The same image on two routes, and one result of both."""
    one = bench.proven(sop="1.9", content="a" * 64)
    other = bench.receive(sop="1.9", content="a" * 64, route="second")
    with bench.database.read() as conn:
        assert kept_bytes(conn) == 2 * SIZE
    # As if the second row were in another study: no such image exists, but nothing may hang on that.
    with bench.database.write() as conn:
        conn.execute(
            studies.insert().values(
                id=2,
                study_instance_uid="1.7",
                state="settled",
                first_received_at=NOW,
                last_received_at=LATER,
            )
        )
        conn.execute(
            update(images).where(images.c.id == other.image_id).values(study_id=2, decision="accepted")
        )
        link_result(conn, other.image_id, 1, 0)
        conn.execute(update(studies).where(studies.c.id == 1).values(state="settled"))
    bench.ticks().retain()
    assert bench.value(images.c.purged_at) == [LATER, None]
    assert bench.files() == ["result", "source"]
    bench.ticks(now=LATER + timedelta(days=31)).retain()
    assert bench.files() == []
    assert one.image_id != other.image_id


@pytest.mark.parametrize(
    ("step", "purged"), [("purge.changed", False), ("purge.committed", True), ("sweep.unlinked", True)]
)
def test_a_kill_at_any_step_leaves_no_orphan_and_no_row_that_lies(bench, tmp_path, step, purged):
    bench.proven()
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / step).write_text("kill 1")
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_store_retention import Bench
Bench(Path({str(tmp_path)!r})).ticks().retain()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {FLAG: str(faults)}, timeout=120, check=False
    )
    assert ended.returncode == -9
    rows_say_gone = bench.value(images.c.purged_at) == [LATER]
    assert rows_say_gone is purged
    if not rows_say_gone:
        assert bench.files() == ["result", "source"]
    bench.ticks().sweep()
    assert bench.files() == ([] if purged else ["result", "source"])
    bench.ticks().retain()
    assert bench.files() == []


def test_a_purged_image_that_arrives_again_is_taken_anew(bench):
    receipt = bench.proven(sop="1.9", content="a" * 64)
    bench.ticks().retain()
    again = bench.receive(sop="1.9", content="a" * 64, at=LATER)
    assert (again.image_id, again.novelty) == (receipt.image_id, Novelty.RETURNED)
    assert bench.value(studies.c.state) == [StudyState.RECEIVING]
    assert bench.value(studies.c.revision) == [2]
    assert bench.value(images.c.purged_at) == [None]
    assert bench.value(images.c.revision) == [1]
    bench.ticks().sweep()
    assert bench.files() == ["source"]
    assert bench.receive(sop="1.9", content="a" * 64, at=LATER).novelty is Novelty.DUPLICATE


def test_another_image_in_its_place_is_a_replacement(bench):
    bench.proven(sop="1.9", content="a" * 64)
    bench.ticks().retain()
    assert bench.receive(sop="1.9", content="b" * 64, at=LATER).novelty is Novelty.REPLACED
    bench.ticks().sweep()
    assert bench.files() == ["source"]


def test_a_result_is_made_anew_only_for_a_destination_that_lacks_it(bench):
    receipt = bench.proven()
    bench.ticks().retain()
    with bench.database.write() as conn:
        assert not has_way_to_go(conn, 1, ["archive"])
        assert has_way_to_go(conn, 1, ["archive", "added"])
        uid = conn.scalar(select(results.c.sop_instance_uid))
        made = NewResult(uid, "1.2", "1.2", "2.25.3", "b-1", "f" * 64, SIZE, 0, {}, NOW)
        assert add_result(conn, receipt.image_id, made, LATER) == 1
    assert (bench.value(results.c.purged_at), bench.value(results.c.digest)) == ([None], ["f" * 64])


def test_an_operator_who_retries_what_was_purged_is_told_what_to_do(bench):
    receipt = bench.receive()
    with bench.database.write() as conn:
        failed = bench.job(conn, receipt)
        queue.fail(conn, failed, NOW, code="x", text="x")
    for delivery in bench.infer(receipt):
        bench.move(delivery, DeliveryEvent.STORE, DeliveryEvent.FIND)
    bench.settle()
    bench.ticks().retain()
    told = pytest.raises(FilePurged, match="purged on 2026-03-03; send the image again")
    with told, bench.database.write() as conn:
        retry_job(conn, failed.id, LATER, "operator")
    assert bench.value(jobs.c.state) == [JobState.FAILED, JobState.DONE]
    assert bench.value(deliveries.c.state) == [DeliveryState.CONFIRMED]
