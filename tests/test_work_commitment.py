"""Storage commitment against archives that keep the standard in every way it allows, and in some it does not.

A real receiver in its own process, a real queue and loop, a scripted archive on real sockets.
"""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

import rows
from dicom_node.core.delivery import DeliveryEvent
from dicom_node.core.job import JobKind, JobState, RetryPolicy
from dicom_node.network.requestor import RemoteAE
from dicom_node.store.database import open_existing_database
from dicom_node.store.files import Layout
from dicom_node.store.jobs import NewJob, enqueue
from dicom_node.store.overview import job_history
from dicom_node.store.process import Bells
from dicom_node.store.results import NewResult, add_delivery, add_result, move_delivery
from dicom_node.store.schema import commitments, deliveries, jobs
from dicom_node.work.commitment import ConfirmByCommitment, Reports
from dicom_node.work.deliver import Archive
from dicom_node.work.loop import Lane, WorkLoop
from dicom_node.work.proof import Proof
from harness import Receiver, node_config
from peers.committer import SECONDARY_CAPTURE, Asked, Committer, event_information

LANE = "archive"


def now():
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("receiver")
    config = node_config(folder, {LANE: ("PACS", 4242), "other": ("OTHER", 4243)})
    # A title that no route has: the archive calls back to it, and nobody else has business there.
    config["destinations"][LANE] |= {"confirm": "commitment", "calling_ae_title": "ASKER"}
    running = Receiver(folder, config)
    yield running
    running.stop()


class Bench:
    """Deliveries that were accepted, and the loop that has to prove them."""

    def __init__(self, receiver):
        self.receiver = receiver
        layout = Layout(receiver.node.folder / "data")
        self.database = open_existing_database(layout.database, busy_timeout_s=30)
        self.bells = Bells(layout.bells)
        self.stop = threading.Event()
        self.thread = None
        self.archive = None
        self.mine = []

    def accepted(self, count=1, max_attempts=20, sent=1):
        """Deliveries that the archive said success to, each with its confirm job."""
        for _ in range(count):
            number = time.monotonic_ns()
            with self.database.write() as conn:
                at = now()
                receipt = rows.arrive(conn, at, sop=f"1.2.{number}")
                result = NewResult(f"2.25.{number}", SECONDARY_CAPTURE, "1.2", "1.3", "b", "d" * 64, 1, 0, {})
                delivery = add_delivery(conn, add_result(conn, receipt.image_id, result, at), LANE)
                for kind in (JobKind.DELIVER,) * sent + (JobKind.CONFIRM,):
                    job = NewJob(
                        kind,
                        LANE,
                        20,
                        receipt.study_id,
                        receipt.image_id,
                        max_attempts=max_attempts,
                        delivery_id=delivery,
                    )
                    enqueue(conn, job, at)
                move_delivery(conn, delivery, DeliveryEvent.STORE, accepted_at=at)
            self.mine.append(delivery)
        return self.mine[-count:]

    def ask(self, on_action, *, timeout_s=60.0, commits=True, wait=True):
        """Serve the confirm lane with an archive that answers by `on_action(archive, asked)`."""
        self.archive = Committer(on_action, commits=commits).start()
        self.archive.calls_back = (self.receiver.port, "ASKER")
        remote = RemoteAE(LANE, "PACS", "127.0.0.1", self.archive.port, "ASKER", 10, 10)
        proof = Proof(Archive(remote, confirm=True, confirm_delay_s=0, max_attempts=3), self.database)
        handler = ConfirmByCommitment(
            proof, Reports(self.database, self.bells, now), timedelta(seconds=timeout_s)
        )
        policy = RetryPolicy(first_delay_s=0.05, factor=1.0)
        loop = WorkLoop(
            Lane(JobKind.CONFIRM, LANE, 500, policy, 120),
            self.database,
            self.bells,
            handler,
            owner="test:1",
            clock=now,
            on_hang=lambda claimed: None,
        )
        self.thread = threading.Thread(target=loop.run, args=(self.stop,))
        self.thread.start()
        if wait:
            self.wait(lambda: all(state != "accepted" for state in self.states()))
        return self.archive

    def states(self):
        with self.database.read() as conn:
            return [
                conn.scalar(select(deliveries.c.state).where(deliveries.c.id == each)) for each in self.mine
            ]

    def row(self, delivery):
        with self.database.read() as conn:
            return conn.execute(select(deliveries).where(deliveries.c.id == delivery)).one()

    def job(self, delivery, kind=JobKind.CONFIRM):
        """The newest job of a kind, and its events."""
        with self.database.read() as conn:
            number = conn.scalar(
                select(jobs.c.id)
                .where(jobs.c.delivery_id == delivery, jobs.c.kind == kind)
                .order_by(jobs.c.id.desc())
            )
            return job_history(conn, number)

    def transaction(self, asked):
        with self.database.read() as conn:
            query = select(commitments.c.state).where(commitments.c.transaction_uid == asked.transaction_uid)
            return conn.scalar(query)

    def wait(self, there, timeout_s=60.0):
        deadline = time.monotonic() + timeout_s
        while not there():
            assert time.monotonic() < deadline, (self.states(), self.archive and self.archive.questions)
            time.sleep(0.05)

    def close(self):
        self.stop.set()
        self.bells.ring(JobKind.CONFIRM, LANE)
        if self.archive is not None:
            self.archive.stop()
        if self.thread is not None:
            self.thread.join(30)
            assert not self.thread.is_alive()
        with self.database.write() as conn:  # what a test leaves behind is nothing to the next
            conn.execute(update(jobs).values(state=JobState.DONE))
        self.database.close()


@pytest.fixture
def bench(receiver):
    bench = Bench(receiver)
    yield bench
    bench.close()


# -- where and when the report comes ----------------------------------------------------------


def same_before(archive, asked):
    """Report on the same association, and answer the question after that."""
    assert archive.report_on(asked.association, *event_information(asked)) == 0
    return 0x0000


def same_after(archive, asked):
    def report():
        time.sleep(0.5)
        assert archive.report_on(asked.association, *event_information(asked)) == 0

    archive.later(report)
    return 0x0000


def separate_before(archive, asked):
    assert archive.call_back(*event_information(asked)) == 0
    return 0x0000


def separate_without_roles(archive, asked):
    archive.later(lambda: archive.call_back(*event_information(asked), roles=False))
    return 0x0000


def before_and_no_answer(archive, asked):
    """Report, then hang up instead of answering."""
    assert archive.call_back(*event_information(asked)) == 0
    asked.association.abort()
    return 0x0000


@pytest.mark.parametrize(
    "way", [same_before, same_after, separate_before, separate_without_roles, before_and_no_answer]
)
def test_a_report_counts_wherever_and_whenever_it_comes(bench, way):
    (delivery,) = bench.accepted()
    archive = bench.ask(way)
    row = bench.row(delivery)
    assert (row.state, row.confirmed_by, row.confirmed_at is not None) == ("confirmed", "commitment", True)
    (asked,) = archive.questions  # one question was enough
    assert asked.instances[0][0] == SECONDARY_CAPTURE
    assert bench.transaction(asked) == "reported"


def test_a_late_report_wakes_the_job_and_saying_it_twice_changes_nothing(bench):
    (delivery,) = bench.accepted()
    archive = bench.ask(lambda archive, asked: 0x0000, timeout_s=600, wait=False)
    bench.wait(lambda: bench.job(delivery)[0].state == JobState.WAITING and archive.questions)
    line, _ = bench.job(delivery)
    assert "the archive's report is due by" in line.error_text
    assert line.not_before > now() + timedelta(seconds=500)
    (asked,) = archive.questions
    answers = [archive.call_back(*event_information(asked)) for _ in range(2)]
    bench.wait(lambda: bench.states() == ["confirmed"], timeout_s=20)  # it would sleep for ten minutes
    answers.append(archive.call_back(*event_information(asked, {asked.instances[0][1]: 0x0112})))
    assert answers == [0, 0, 0]
    time.sleep(0.5)
    assert bench.states() == ["confirmed"]
    assert [event.event for event in bench.job(delivery)[1]] == [
        "claim",
        "postpone",
        "wake",
        "claim",
        "finish",
    ]


def test_no_report_in_time_means_a_new_transaction_with_a_new_uid_and_the_late_one_still_counts(bench):
    (delivery,) = bench.accepted()
    archive = bench.ask(lambda archive, asked: 0x0000, timeout_s=3, wait=False)
    bench.wait(lambda: len(archive.questions) == 2)
    first, second = archive.questions
    assert first.transaction_uid != second.transaction_uid
    assert first.instances == second.instances
    assert bench.transaction(first) == "expired"
    assert archive.call_back(*event_information(first)) == 0
    bench.wait(lambda: bench.states() == ["confirmed"])
    assert bench.row(delivery).confirmed_by == "commitment"


def test_an_archive_that_never_reports_ends_in_words(bench):
    (delivery,) = bench.accepted(max_attempts=3)
    archive = bench.ask(lambda archive, asked: 0x0000, timeout_s=2)
    row = bench.row(delivery)
    assert row.state == "parked"
    assert "asked 2 time(s), no report came; see that it can call us as ASKER" in row.words
    assert "set `confirm: find`" in row.words
    assert len(archive.questions) == 2


# -- what the report says ---------------------------------------------------------------------


def failing(reason, times=1):
    """Report a failure the first times, then commit."""

    def on_action(archive, asked):
        failed = len(archive.questions) <= times
        reasons = {asked.instances[0][1]: reason} if failed else {}
        archive.later(lambda: archive.call_back(*event_information(asked, reasons)))
        return 0x0000

    return on_action


@pytest.mark.parametrize("reason", [0x0110, 0x0213, 0x0131, 0x9999, None])
def test_reasons_that_pass_are_asked_about_again_under_a_new_uid(bench, reason):
    bench.accepted()
    archive = bench.ask(failing(reason))
    assert bench.states() == ["confirmed"]
    assert len({asked.transaction_uid for asked in archive.questions}) == 2


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (0x0119, "storage commitment failed, 0x0119 (class and instance conflict)"),
        (0x0122, "storage commitment failed, 0x0122 (referenced SOP class not supported)"),
    ],
)
def test_reasons_that_stay_park_the_delivery_with_the_archives_words(bench, reason, words):
    (delivery,) = bench.accepted()
    archive = bench.ask(failing(reason))
    assert bench.row(delivery).state == "parked"
    assert words in bench.row(delivery).words
    assert bench.job(delivery)[0].error_code == "not-committed"
    assert len(archive.questions) == 1


def test_a_reason_that_never_passes_is_parked_in_the_end(bench):
    (delivery,) = bench.accepted(max_attempts=3)
    bench.ask(failing(0x0110, times=99))
    assert bench.row(delivery).state == "parked"
    assert "0x0110 (processing failure)" in bench.row(delivery).words


def test_what_the_archive_does_not_have_is_sent_again(bench):
    (delivery,) = bench.accepted()
    bench.ask(failing(0x0112))
    assert bench.row(delivery).state == "queued"
    assert "0x0112 (no such object instance)" in bench.row(delivery).words
    assert bench.job(delivery, JobKind.DELIVER)[0].state == JobState.WAITING
    assert bench.job(delivery)[0].state == JobState.DONE


def test_but_not_for_ever(bench):
    (delivery,) = bench.accepted(sent=3)
    bench.ask(failing(0x0112))
    assert bench.row(delivery).state == "parked"
    assert "said success 3 time(s), storage commitment failed, 0x0112" in bench.row(delivery).words


def test_after_a_second_sending_an_old_failure_counts_no_more(bench):
    (delivery,) = bench.accepted()
    archive = bench.ask(failing(0x0112))
    with bench.database.write() as conn:  # the deliver lane's part
        move_delivery(conn, delivery, DeliveryEvent.STORE, accepted_at=now())
        line = bench.job(delivery)[0]
        image, study = conn.execute(
            select(jobs.c.image_id, jobs.c.study_id).where(jobs.c.id == line.id)
        ).one()
        job = NewJob(JobKind.CONFIRM, LANE, 20, study, image, max_attempts=20, delivery_id=delivery)
        enqueue(conn, job, now())
    bench.wait(lambda: bench.states() == ["confirmed"])
    assert len(archive.questions) == 2


def test_one_transaction_for_many_and_an_end_for_each(bench):
    bench.accepted(4)

    def on_action(archive, asked):
        if len(archive.questions) > 1:
            archive.later(lambda: archive.call_back(*event_information(asked)))
            return 0x0000
        uids = [uid for _, uid in asked.instances]
        part = Asked(asked.transaction_uid, asked.instances[:3], asked.association)
        reasons = {uids[1]: 0x0112, uids[2]: 0x0119}
        archive.later(lambda: archive.call_back(*event_information(part, reasons)))
        return 0x0000

    archive = bench.ask(on_action)
    assert bench.states() == ["confirmed", "queued", "parked", "confirmed"]
    assert [len(asked.instances) for asked in archive.questions] == [4, 1]


# -- who reports, and what --------------------------------------------------------------------


def test_reports_of_strangers_and_of_nothing_are_refused_and_logged(bench, receiver):
    (delivery,) = bench.accepted()
    archive = bench.ask(lambda archive, asked: 0x0000, timeout_s=600, wait=False)
    bench.wait(lambda: archive.questions and bench.job(delivery)[0].state == JobState.WAITING)
    (asked,) = archive.questions
    event_type, information = event_information(asked)
    unknown = Asked("2.25.404", asked.instances, None)
    assert archive.call_back(event_type, information, title="STRANGER") == 0x0115
    assert archive.call_back(event_type, information, title="OTHER") == 0x0115  # another destination of ours
    assert archive.call_back(*event_information(unknown)) == 0x0115
    assert archive.call_back(7, information) == 0x0113
    del information.TransactionUID
    assert archive.call_back(event_type, information) == 0x0115
    time.sleep(0.5)
    assert bench.states() == ["accepted"]
    assert receiver.log.count("report-refused") >= 5
    assert archive.call_back(*event_information(asked)) == 0
    bench.wait(lambda: bench.states() == ["confirmed"])


def test_the_title_we_ask_under_takes_no_images(receiver):
    from pynetdicom import AE
    from pynetdicom.sop_class import Verification

    ae = AE("PACS")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.6.1")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", receiver.port, ae_title="ASKER")
    assert [str(context.abstract_syntax) for context in association.accepted_contexts] == [Verification]
    association.release()


@pytest.mark.parametrize(
    ("status", "commits", "words"),
    [
        (0x0124, True, "answered 0x0124 (not authorised); have its administrator allow it"),
        (0, False, "does not offer storage commitment; have its administrator allow it"),
    ],
)
def test_an_archive_that_does_not_let_us_ask_is_named_with_the_next_step(bench, status, commits, words):
    (delivery,) = bench.accepted()
    bench.ask(lambda archive, asked: status, commits=commits)
    assert bench.row(delivery).state == "parked"
    assert words in bench.row(delivery).words
    assert "set `confirm: find` for it; `emode probe archive`" in bench.row(delivery).words


@pytest.mark.parametrize("status", [0x0110, 0x0213, 0x0131])
def test_an_archive_that_cannot_take_the_question_now_is_asked_again(bench, status):
    bench.accepted()

    def on_action(archive, asked):
        if len(archive.questions) == 1:
            return status
        return same_before(archive, asked)

    archive = bench.ask(on_action)
    assert bench.states() == ["confirmed"]
    assert bench.transaction(archive.questions[0]) == "refused"
