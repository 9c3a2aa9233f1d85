"""Associations that stay open for a moment: who shares one, how it ends, whose fault it is if it has."""

import time

import pytest

from courier import Courier
from dicom_node.dicom.services import SECONDARY_CAPTURE, UNCOMPRESSED
from dicom_node.network.line import Line
from dicom_node.network.requestor import RemoteAE
from dicom_node.network.scu import Outgoing, send_over
from peers.liars import Liar
from peers.still import breast_still, write

WANTED = [(str(SECONDARY_CAPTURE), syntax) for syntax in UNCOMPRESSED[:2]]
FOUND = [("1.2.840.10008.5.1.4.1.2.2.1", UNCOMPRESSED[0])]


def wait(there):
    deadline = time.monotonic() + 15
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Clock:
    """Monotonic, as a test says."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pacs():
    with Liar() as pacs:
        yield pacs


@pytest.fixture
def line(pacs, clock):
    remote = RemoteAE("archive", "PACS", "127.0.0.1", pacs.port, "EMODE", 2, 2)
    line = Line(remote, 2.0, clock)
    yield line
    line.close()


def test_it_stays_for_the_next_use_and_is_released_after_its_time(line, pacs, clock):
    first, was_kept = line.take(WANTED)
    assert not was_kept
    assert line.rest() == pytest.approx(2.0)
    clock.now += 1.5
    assert line.rest() == pytest.approx(0.5)
    assert line.take(WANTED) == (first, True)
    assert line.rest() == pytest.approx(2.0)  # its time begins with each use anew
    clock.now += 2.0
    assert line.rest() == float("inf")
    wait(lambda: pacs.releases == 1 and pacs.open_associations == 0)
    assert line.rest() == float("inf")
    assert line.take(WANTED)[1] is False
    assert pacs.associations == 2


def test_what_was_not_proposed_needs_another_one_which_proposes_all(line, pacs):
    line.take(WANTED)
    second, was_kept = line.take(FOUND)
    assert not was_kept
    assert line.take(WANTED) == (second, True)
    assert pacs.associations == 2


@pytest.mark.parametrize("release", [True, False])
def test_one_that_the_peer_has_ended_is_not_given_out(line, pacs, release):
    line.take(WANTED)
    pacs.hang_up(release=release)
    wait(lambda: pacs.open_associations == 0)
    assert line.rest() == float("inf")
    assert line.take(WANTED)[1] is False


def test_however_busy_it_is_replaced_now_and_then(line, pacs, clock):
    line.take(WANTED)
    for _ in range(6):
        clock.now += 60.0
        line.take(WANTED)
    assert pacs.associations == 2


def test_after_a_failure_of_ours_the_next_one_begins_anew(line, pacs, tmp_path, monkeypatch):
    def broken(association, item):
        raise ValueError("what nobody foresaw")

    still = breast_still(rows=32, columns=32, sop_class=SECONDARY_CAPTURE)
    items = [Outgoing.of(write(still, tmp_path / "still.dcm"))] * 2
    assert [sent.error for sent in send_over(line, items)] == [None, None]
    with monkeypatch.context() as patch:
        patch.setattr("dicom_node.network.scu._make_ready", broken)
        with pytest.raises(ValueError, match="nobody foresaw"):
            list(send_over(line, items))
    wait(lambda: pacs.open_associations == 0)
    assert [sent.error for sent in send_over(line, items)] == [None, None]


# -- as the courier uses it -------------------------------------------------------------------------


def accepted(courier, count):
    return lambda: courier.states() == ["accepted"] * count


def test_results_that_come_one_by_one_share_an_association_and_stopping_releases_it(tmp_path, pacs):
    with Courier(tmp_path, {"archive": pacs.port}, linger_s=20) as courier:
        for number in range(1, 6):
            courier.add(1, "archive", first=number)
            courier.wait(accepted(courier, number))
        assert (pacs.associations, pacs.releases) == (1, 0)
        courier.end()
        wait(lambda: (pacs.open_associations, pacs.releases) == (0, 1))


def test_without_linger_it_ends_as_soon_as_nothing_waits(tmp_path, pacs):
    with Courier(tmp_path, {"archive": pacs.port}, linger_s=0) as courier:
        for number in range(1, 4):
            courier.add(1, "archive", first=number)
            courier.wait(lambda n=number: pacs.releases == n)
        assert pacs.associations == 3


def test_questions_share_one_too(tmp_path, pacs):
    with Courier(tmp_path, {"archive": pacs.port}, linger_s=20, confirm="find", confirm_delay_s=0) as courier:
        for number in range(1, 4):
            courier.add(1, "archive", first=number)
            courier.wait(lambda n=number: courier.states() == ["confirmed"] * n)
        assert pacs.questions == 3
        assert pacs.associations == 2  # one to store, one to ask


def test_an_archive_that_ends_it_while_nobody_uses_it_has_not_failed(tmp_path, pacs, monkeypatch):
    """Nor if that shows only when the next result is on its way: the archive's end may cross it."""
    monkeypatch.setattr("dicom_node.network.requestor.Requestor.is_still_there", lambda self: self.is_open)
    with Courier(
        tmp_path,
        {"archive": pacs.port},
        linger_s=20,
        confirm="find",
        confirm_delay_s=0,
        breaker={"failures": 1, "first_pause_s": 3600, "cap_s": 3600},
    ) as courier:
        for number in range(1, 4):
            courier.add(1, "archive", first=number)
            courier.wait(lambda n=number: courier.states() == ["confirmed"] * n)
            pacs.hang_up()
            courier.wait(lambda: pacs.open_associations == 0)
        assert {job.attempts for job in courier.jobs()} == {1}
        assert courier.breaker().failures == 0
        assert pacs.associations == 6
