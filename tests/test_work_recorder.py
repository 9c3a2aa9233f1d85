"""What the recorder may keep in memory, for how long, and what happens to it when writing fails."""

import threading
import time

import pytest

from dicom_node.core.errors import StoreBusy
from dicom_node.work import recorder as work_recorder
from dicom_node.work.recorder import GATHERED_AT_MOST, Recorder


class Table:
    """Takes what is written; a test can close it."""

    def __init__(self):
        self.groups, self.error = [], None
        self.open = threading.Event()
        self.open.set()

    def write(self, some):
        assert self.open.wait(20)
        if self.error is not None:
            raise self.error
        self.groups.append(list(some))

    @property
    def written(self):
        return [one for group in self.groups for one in group]


@pytest.fixture
def table():
    return Table()


@pytest.fixture
def recorder(table):
    recorder = Recorder(table.write)
    yield recorder
    table.open.set()
    recorder.close()


def wait(there):
    deadline = time.monotonic() + 15
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_outcome_is_written_without_another_one_to_come(recorder, table):
    recorder.take(1)
    wait(lambda: table.written == [1])


def test_many_share_one_transaction_and_flush_leaves_none(recorder, table, monkeypatch):
    monkeypatch.setattr(work_recorder, "GATHERED_FOR_S", 60.0)
    count = 2 * GATHERED_AT_MOST + 3
    for number in range(count):
        recorder.take(number)
    recorder.flush()
    assert table.written == list(range(count))
    assert [len(group) for group in table.groups] == [GATHERED_AT_MOST, GATHERED_AT_MOST, 3]


def test_a_database_that_takes_nothing_stops_the_work_at_the_bound(recorder, table):
    table.open.clear()
    taken = []

    def work():
        for number in range(100):
            recorder.take(number)
            taken.append(number)

    thread = threading.Thread(target=work)
    thread.start()
    wait(lambda: len(taken) >= GATHERED_AT_MOST)
    time.sleep(0.3)
    assert len(taken) <= 2 * GATHERED_AT_MOST  # being written, and waiting
    table.open.set()
    thread.join(20)
    recorder.flush()
    assert table.written == list(range(100))


def test_what_writing_raises_is_raised_where_the_work_is_done_and_once(recorder, table):
    table.error = StoreBusy("locked")
    recorder.take(1)
    wait(lambda: recorder._error is not None)
    with pytest.raises(StoreBusy):
        recorder.take(2)
    table.error = None
    recorder.take(3)
    recorder.flush()
    assert table.written == [3]


def test_flush_raises_what_was_not_written(recorder, table):
    table.error = StoreBusy("locked")
    recorder.take(1)
    with pytest.raises(StoreBusy):
        recorder.flush()
