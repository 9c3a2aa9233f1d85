"""The real courier against archives that fail and lie: what is sent, counted, parked, and what waits."""

import pytest

from courier import Courier
from dicom_node.core.breaker import BreakerState
from dicom_node.core.job import JobKind, JobState
from dicom_node.dicom.services import StatusKind, status_kind
from dicom_node.store.operator import retry_job, try_destination
from peers.liars import DeadPort, Liar, answer, first, slow


def all_are(courier, state, destination="archive"):
    return lambda: set(courier.states(destination)) == {state}


# -- each class of answer ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, StatusKind.SUCCESS),
        (0x0001, StatusKind.WARNING),  # PS3.7 C.4.2
        (0x0107, StatusKind.WARNING),
        (0x0116, StatusKind.WARNING),
        (0xB000, StatusKind.WARNING),  # PS3.4 Table B.2-1
        (0xB006, StatusKind.WARNING),
        (0xB007, StatusKind.WARNING),
        (0xBFFF, StatusKind.WARNING),
        (0x0111, StatusKind.WARNING),  # it has the instance: we never send other bytes under its UID
        (0xA700, StatusKind.TEMPORARY),
        (0xA7FF, StatusKind.TEMPORARY),
        (0x0110, StatusKind.TEMPORARY),
        (0x0213, StatusKind.TEMPORARY),
        (0xA900, StatusKind.PERMANENT),
        (0xA800, StatusKind.PERMANENT),
        (0xC000, StatusKind.PERMANENT),
        (0xCFFF, StatusKind.PERMANENT),
        (0x0117, StatusKind.PERMANENT),
        (0x0122, StatusKind.PERMANENT),
        (0x0124, StatusKind.PERMANENT),
        (0xFE00, StatusKind.PERMANENT),
    ],
)
def test_every_status_has_one_class(status, kind):
    assert status_kind(status) is kind


def test_a_warning_is_an_arrival_and_keeps_its_words(tmp_path):
    said = answer(0xB007, "(0018,9999) dropped", 0x00189999)
    with Liar(lambda number, ds: said) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        courier.add(1, "archive")
        courier.wait(all_are(courier, "accepted"))
        (words,) = courier.words()
    assert words == (
        '0xB007 (data set does not match SOP class (warning)); it wrote: "(0018,9999) dropped; (0018,9999)"'
    )


def test_a_full_archive_is_tried_again_until_it_takes_them(tmp_path):
    with Liar(first(2, 0xA700)) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        courier.add(1, "archive")
        courier.wait(all_are(courier, "accepted"))
        (job,) = courier.jobs()
    assert (job.state, job.attempts) == (JobState.DONE, 3)
    assert len(pacs.asked) == 3


@pytest.mark.parametrize("status", [0xA900, 0xC123, 0x0122])
def test_a_refusal_parks_one_result_with_the_peers_words_and_stops_nothing_else(tmp_path, status, caplog):
    said = answer(status, "patient DOE^JANE unknown\x00", 0x00100010)
    with Liar(first(1, said)) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        courier.add(3, "archive")
        courier.wait(lambda: sorted(courier.states()) == ["accepted", "accepted", "parked"])
        (failed,) = courier.jobs(states=[JobState.FAILED])
        assert (failed.error_code, failed.attempts) == ("destination-refused", 1)
        assert failed.error_text == courier.words()[0]
        assert f"0x{status:04X}" in failed.error_text
        assert 'it wrote: "patient [...] unknown; (0010,0010)"' in failed.error_text
        assert "`emode jobs retry`" in failed.error_text
        assert courier.breaker().failures == 0
        with courier.database.write() as conn:
            retry_job(conn, failed.id, failed.created_at, "operator test")
        courier.wait(all_are(courier, "accepted"))
    assert "DOE" not in caplog.text


def test_no_presentation_context_parks_with_what_to_ask_for(tmp_path):
    with Liar(contexts=()) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        courier.add(2, "archive")
        courier.wait(all_are(courier, "parked"))
        assert {job.error_code for job in courier.jobs()} == {"no-presentation-context"}
        assert all("ask its administrator" in words for words in courier.words())


# -- a destination that is away ---------------------------------------------------------------


def test_an_outage_costs_no_attempts_and_no_storm_and_ends_with_everything_delivered(tmp_path, free_port):
    with Courier(tmp_path, {"archive": free_port}) as courier:
        courier.add(150, "archive", max_attempts=5)
        courier.wait(lambda: courier.breaker().pauses >= 6)
        down = courier.breaker()
        assert (down.error_code, down.kind) == ("destination-unreachable", JobKind.DELIVER)
        jobs = courier.jobs()
        assert {job.state for job in jobs} <= {JobState.WAITING, JobState.RUNNING}
        # Two failures were counted before the third opened the breaker; a trial in hand counts until it ends.
        assert max(job.attempts for job in jobs) <= 3
        # No storm: three batches, then one job for each pause.
        tries = sum(courier.events(job.id).count("claim") for job in jobs)
        assert tries <= 3 * 100 + courier.breaker().pauses + 1
        with Liar(port=free_port) as pacs:
            courier.wait(all_are(courier, "accepted"))
            assert courier.breaker().failures == 0
            assert len(pacs.asked) == len(set(pacs.asked)) == 150
            assert pacs.associations <= 4  # that of the trial stays open for the rest


def test_an_archive_that_comes_and_goes_parks_nothing(tmp_path, free_port):
    with Courier(tmp_path, {"archive": free_port}) as courier:
        courier.add(8, "archive", max_attempts=6)
        for taken in range(1, 4):
            courier.wait(lambda: courier.breaker().state is not BreakerState.CLOSED)
            # It takes one, and is away again.
            with Liar(lambda number, ds: 0x0000 if number == 1 else pacs.hang(), port=free_port) as pacs:
                courier.wait(lambda n=taken: courier.states().count("accepted") >= n)
        assert "parked" not in courier.states()
        with Liar(port=free_port):
            courier.wait(all_are(courier, "accepted"))


def test_the_breaker_survives_a_restart_and_a_trial_that_was_killed(tmp_path, free_port):
    courier = Courier(tmp_path, {"archive": free_port}, breaker={"failures": 1, "first_pause_s": 3600})
    courier.add(2, "archive")
    courier.start()
    courier.wait(lambda: courier.breaker().state is BreakerState.OPEN)
    courier.end()
    with courier.database.write() as conn:
        conn.exec_driver_sql("UPDATE breakers SET state = 'half-open', next_try_at = NULL")  # killed here
    with Liar(port=free_port), courier:
        courier.wait(all_are(courier, "accepted"))


def test_an_operator_need_not_wait_for_the_next_try(tmp_path, free_port):
    breaker = {"failures": 1, "first_pause_s": 3600, "cap_s": 3600}
    with Courier(tmp_path, {"archive": free_port}, breaker=breaker) as courier:
        courier.add(2, "archive")
        courier.wait(lambda: courier.breaker().state is BreakerState.OPEN)
        with Liar(port=free_port) as pacs:
            with courier.database.write() as conn:
                assert try_destination(conn, "archive") is BreakerState.OPEN
            courier.wait(all_are(courier, "accepted"))
            assert len(pacs.asked) == 2


def test_a_poisonous_result_is_parked_in_the_end_and_keeps_nobody_waiting(tmp_path):
    def store(number, ds):
        return pacs.abort() if ds.InstanceNumber == 1 else 0x0000

    with Liar(store) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        (poison,) = courier.add(1, "archive", max_attempts=6)
        courier.wait(lambda: courier.breaker().state is BreakerState.OPEN)
        for number in range(2, 12):  # other results keep coming
            if "parked" in courier.states():
                break
            courier.add(1, "archive", first=number)
            courier.wait(lambda: set(courier.states()[1:]) == {"accepted"})
            courier.wait(lambda: courier.breaker().state is BreakerState.OPEN or "parked" in courier.states())
        assert courier.states()[0] == "parked"
        assert poison not in pacs.kept
        assert courier.jobs(states=[JobState.FAILED])[0].error_code == "destination-aborted"


# -- others are not delayed -------------------------------------------------------------------


@pytest.mark.parametrize("dead", ["refused", "black-hole", "slow"])
def test_a_dead_destination_takes_nothing_from_another(tmp_path, free_port, dead):
    hole, snail = DeadPort(), Liar(slow(1.0))
    ports = {"refused": free_port, "black-hole": hole.port, "slow": snail.port}
    try:
        with (
            Liar() as alive,
            Courier(tmp_path, {"dead": ports[dead], "alive": alive.port}, connect_timeout_s=30) as courier,
        ):
            courier.add(30, "dead", "alive")
            courier.wait(all_are(courier, "accepted", "alive"))
            # All thirty are there while the other has not got through its first three.
            assert courier.states("dead").count("accepted") < 15
            assert len(alive.asked) == len(set(alive.asked)) == 30
            hole.stop()
            courier.stop.set()
    finally:
        hole.stop()
        snail.stop()


# -- archives that lie ------------------------------------------------------------------------


def test_success_and_nothing_kept_is_found_out_and_sent_again_and_then_parked(tmp_path):
    with Liar(keeps=False) as pacs, Courier(tmp_path, {"archive": pacs.port}, confirm="find") as courier:

        def long_ago():  # an archive that indexes late gets a minute; let it have passed
            with courier.database.write() as conn:
                conn.exec_driver_sql("UPDATE deliveries SET accepted_at = '2026-01-01 00:00:00.000000'")
            return courier.states() == ["parked"]

        courier.add(1, "archive")
        courier.wait(long_ago)
        assert len(pacs.asked) == 3
        assert "confirmed" not in courier.states()
        (job,) = courier.jobs(states=[JobState.FAILED])
        assert job.error_code == "keeps-nothing"
        assert "said success 3 time(s), lists nothing" in courier.words()[0]


def test_old_content_is_kept_and_the_same_result_counts_as_arrived(tmp_path):
    with Liar() as pacs:
        for name in ("first", "second"):  # two nodes, or one that lost its data folder
            with Courier(tmp_path / name, {"archive": pacs.port}, confirm="find") as courier:
                courier.add(3, "archive")
                courier.wait(all_are(courier, "confirmed"))
        assert len(pacs.kept) == 3
        assert len(pacs.asked) == 6


@pytest.mark.parametrize("linger_s", [0, 1.5])
def test_an_archive_that_takes_one_association_at_a_time_gets_and_proves_everything(tmp_path, linger_s):
    with (
        Liar(most=1) as pacs,
        Courier(
            tmp_path, {"archive": pacs.port}, confirm="find", confirm_delay_s=0, linger_s=linger_s
        ) as courier,
    ):
        for number in range(1, 4):
            courier.add(1, "archive", first=number)
            courier.wait(lambda n=number: courier.states() == ["confirmed"] * n)
        assert len(pacs.asked) == 3


def test_a_duplicate_that_is_refused_counts_as_arrived(tmp_path):
    with Liar(lambda number, ds: 0x0111) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        courier.add(1, "archive")
        courier.wait(all_are(courier, "accepted"))
        assert "duplicate SOP instance" in courier.words()[0]


def test_slow_answers_within_the_limit_are_waited_for(tmp_path):
    with Liar(slow(1.0)) as pacs, Courier(tmp_path, {"archive": pacs.port}, answer_timeout_s=20) as courier:
        courier.add(3, "archive")
        courier.wait(all_are(courier, "accepted"))
        assert pacs.associations <= 2  # the first may have gone alone
        assert len(pacs.asked) == 3


def test_an_abort_in_the_middle_of_a_study_costs_one_result_one_attempt(tmp_path):
    def store(number, ds):
        return pacs.abort() if number == 3 else 0x0000

    with Liar(store) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        uids = courier.add(5, "archive")
        courier.wait(all_are(courier, "accepted"))
        assert sorted(job.attempts for job in courier.jobs()) == [1, 1, 1, 1, 2]
        assert set(pacs.kept) == set(uids)


def test_an_abort_in_the_middle_of_an_object_sends_that_object_again(tmp_path):
    with Liar(abort_in_data=2) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        uids = courier.add(3, "archive")
        courier.wait(all_are(courier, "accepted"))
        assert set(pacs.kept) == set(uids)


def test_no_answer_to_a_store_is_silence_and_its_neighbours_lose_nothing(tmp_path):
    def store(number, ds):
        return pacs.hang() if ds.InstanceNumber == 1 and not pacs.released.is_set() else 0x0000

    with Liar(store) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        courier.add(3, "archive")
        courier.wait(lambda: courier.states()[1:] == ["accepted"] * 2)
        pacs.released.set()
        courier.wait(all_are(courier, "accepted"))
        jobs = courier.jobs()
        assert [job.attempts for job in jobs[1:]] == [1, 1]
        assert jobs[0].attempts > 1


@pytest.mark.parametrize("hangs_up", [True, False])
def test_a_port_that_gives_no_association_opens_the_breaker(tmp_path, hangs_up):
    with (
        DeadPort(hangs_up=hangs_up) as port,
        Courier(tmp_path, {"archive": port.port}, connect_timeout_s=0.5) as courier,
    ):
        courier.add(5, "archive", max_attempts=3)
        courier.wait(lambda: courier.breaker().pauses >= 2)
        assert courier.breaker().error_code == "association-unanswered"
        assert set(courier.states()) == {"queued"}
        assert port.connections <= 3 + courier.breaker().pauses


@pytest.mark.parametrize("find", ["fails", "never", "abort"])
def test_an_archive_that_answers_no_questions_still_gets_its_results(tmp_path, find):
    with (
        Liar(find=find) as pacs,
        Courier(tmp_path, {"archive": pacs.port}, confirm="find", answer_timeout_s=0.7) as courier,
    ):
        courier.add(2, "archive")
        courier.wait(lambda: pacs.questions >= 3)
        courier.add(2, "archive", first=3)
        courier.wait(all_are(courier, "accepted"))  # stored, and not called done
        assert len(pacs.asked) == 4
        assert courier.breaker().state is BreakerState.CLOSED
        pacs._find = "honest"
        pacs.released.set()
        courier.wait(all_are(courier, "confirmed"))
