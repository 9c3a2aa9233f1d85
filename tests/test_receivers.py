"""Several receivers on one port: limits hold over all of them, one can go while the others work."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.core.room import Watermarks
from dicom_node.network.entrance import Crowd
from dicom_node.network.seats import Seats, SeatTable
from dicom_node.store.files import Layout
from dicom_node.store.process import Turn, is_held
from dicom_node.store.room import DiskRoom
from harness import Node, node_config
from peers.scanner import store_alone
from peers.still import breast_still, write


def start(folder, **listen):
    config = node_config(folder, {"archive": ("PACS", 1)}, listen={"processes": 2, **listen})
    node = Node(folder, config, only=("receiver",)).start(roles=())
    try:
        node.wait(lambda: node.events("node-ready"), "both are ready")
    except BaseException:
        node.kill()
        raise
    return node


@pytest.fixture
def node(tmp_path):
    running = start(tmp_path)
    yield running
    if running.supervisor_pid is not None:
        running.kill()


def call(node, title="PACS"):
    """An association, or None if it was rejected for now."""
    ae = AE(title)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", node.port, ae_title="EMODE")
    if association.is_established:
        return association
    assert association.is_rejected
    answer = association.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
    return None


def threads_of(pid):
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def wait_until(there, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_both_listen_on_one_port_that_the_system_chose_and_share_the_work(node):
    ready = node.events("ready", role="receiver")
    assert len({line["port"] for line in ready}) == 1
    assert [line.get("number", 1) for line in ready] == [1, 2] or len(ready) == 2
    assert set(node.facts("status")["processes"]) == {"receiver", "receiver-2", "worker", "courier"}
    pids = node.pids()
    before = {name: threads_of(pid) for name, pid in pids.items()}
    open_ones = [call(node) for _ in range(8)]
    try:
        assert all(each.send_c_echo(1 + n % 2).Status == 0 for n, each in enumerate(open_ones))
        # Each association has a thread, in the process that had fewer when it came.
        assert {name: threads_of(pid) - before[name] for name, pid in pids.items()} == dict.fromkeys(pids, 4)
    finally:
        for each in open_ones:
            each.release()


def test_limits_hold_over_both_and_a_killed_one_frees_its_seats(tmp_path):
    node = start(tmp_path, max_associations=6, max_associations_per_peer=4)
    try:
        first = [call(node, "A") for _ in range(6)]
        assert [each is not None for each in first] == [True] * 4 + [False] * 2
        others = [call(node, "B"), call(node, "C"), call(node, "D")]
        assert [each is not None for each in others] == [True, True, False]
        first[0].release()
        assert call(node, "A") is not None
        assert call(node, "E") is None
        os.kill(node.pids()["receiver-2"], signal.SIGKILL)
        node.wait(lambda: len(node.events("ready", role="receiver")) == 3, "it is back")
        # What it had is gone: so many fit again, and no more.
        again = [call(node, title) for title in "FGHIJKLM"]
        admitted = sum(each is not None for each in again)
        assert 1 <= admitted <= 5
        still_open = sum(each.is_established for each in [*first, *others] if each is not None)
        assert still_open <= 6 - admitted + 1  # the one that was opened anew is not in the lists
    finally:
        node.kill()


class Sender(threading.Thread):
    """Sends one image after the other over short associations; again until it is acknowledged."""

    def __init__(self, port, images):
        super().__init__()
        self._port, self._images = port, images
        self.acknowledged = set()

    def run(self):
        for ds in self._images:
            deadline = time.monotonic() + 30
            while ds.SOPInstanceUID not in self.acknowledged and time.monotonic() < deadline:
                if store_alone(self._port, ds):
                    self.acknowledged.add(ds.SOPInstanceUID)


def test_a_killed_one_of_two_loses_nothing_and_the_port_is_never_shut(tmp_path, node):
    images = []
    for n in range(60):
        ds = breast_still(seed=n, instance_number=n)
        images.append(pydicom.dcmread(write(ds, tmp_path / f"{n}.dcm")))
    senders = [Sender(node.port, images[n::3]) for n in range(3)]
    for each in senders:
        each.start()
    refused = 0
    for victim in ("receiver", "receiver-2", "receiver"):
        before = len(node.events("ready", role="receiver"))
        os.kill(node.pids()[victim], signal.SIGKILL)
        while len(node.events("ready", role="receiver")) == before:
            try:
                socket.create_connection(("127.0.0.1", node.port)).close()
            except ConnectionRefusedError:
                refused += 1
            time.sleep(0.02)
    for each in senders:
        each.join(60)
    assert refused == 0
    sent = {ds.SOPInstanceUID for ds in images}
    assert set().union(*(each.acknowledged for each in senders)) == sent
    lines = node.images()
    assert len(lines) == len(sent) == 60
    assert {line["sop_instance_uid"] for line in lines} == sent
    kept = {path.name for path in (tmp_path / "data" / "source").rglob("*.dcm")}
    assert len(kept) == 60
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


def test_the_last_one_shuts_the_port_and_the_next_one_opens_the_same(node):
    port = node.port
    for pid in node.pids().values():
        os.kill(pid, signal.SIGSTOP)  # or the first would be back before the second is gone
    for pid in node.pids().values():
        os.kill(pid, signal.SIGKILL)
    refused = False
    deadline = time.monotonic() + 10
    while not refused and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            refused = True
        time.sleep(0.02)  # its queue must not run over: nobody would answer then
    assert refused  # rather than left to wait for whoever comes next
    node.wait(lambda: len(node.events("ready", role="receiver")) == 4, "both are back")
    assert node.port == port
    association = call(node)
    assert association.send_c_echo().Status == 0
    association.release()


def test_a_start_removes_what_its_own_kind_left_and_nothing_of_the_living(tmp_path, node):
    incoming = tmp_path / "data" / "incoming"
    names = [f"tmp{number}-{number:032x}.dcm" for number in (1, 2, 7)]
    for name in (*names, f"tmp{9:032x}.dcm", "result-1.dcm"):
        (incoming / name).touch()
    os.kill(node.pids()["receiver-2"], signal.SIGKILL)
    node.wait(lambda: len(node.events("ready", role="receiver")) == 3, "it is back")
    # Its own, and that of a seventh which there was once. The others' makers live.
    assert {path.name for path in incoming.iterdir()} == {names[0], f"tmp{9:032x}.dcm", "result-1.dcm"}


def test_a_reload_and_a_stop_reach_both(node):
    before = node.pids()
    node.reload()
    node.wait(lambda: node.events("reload"), "it is passed on")
    time.sleep(0.5)
    assert node.pids() == before
    assert node.stop() == 0
    assert node.events("role-restart") == []
    layout = Layout(node.folder / "data")
    assert not any(is_held(layout.lock(name)) for name in before)


def test_a_port_that_is_taken_is_said_and_tried_again(tmp_path, free_port):
    with socket.create_server(("127.0.0.1", free_port)):
        config = node_config(tmp_path, {"archive": ("PACS", 1)}, listen={"processes": 2, "port": free_port})
        node = Node(tmp_path, config, only=("receiver",)).start(roles=())
        node.wait(lambda: node.events("role-not-started", code="listen-failed"), "it says so")
        assert any("another program has it" in line for line in node.stderr)
    try:
        node.wait(lambda: node.events("node-ready"), "it listens once the port is free")
        assert node.port == free_port
    finally:
        node.kill()


# -- the parts ------------------------------------------------------------------------------------


def test_seats_are_counted_over_processes_and_the_rows_of_a_dead_one_are_cleared(tmp_path):
    table = SeatTable(2, 3)
    first, second = (Seats(3, 2, table, number, tmp_path / "turn") for number in (1, 2))
    assert first.take("a", ("A", "1")) is None
    assert second.take("b", ("A", "1")) is None
    assert first.take("c", ("A", "1")) == "too many associations of this peer at once"
    assert first.take("c", ("A", "2")) is None
    assert second.take("d", ("B", "1")) == "too many associations at once"
    second.leave("b")
    assert second.take("d", ("B", "1")) is None
    table.clear(1)
    assert [second.take(guest, ("C", guest)) for guest in "xy"] == [None, None]
    assert second.take("z", ("C", "z")) is not None


def test_many_at_once_in_two_processes_never_get_more_than_there_is(tmp_path):
    table, context = SeatTable(2, 20), multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def grab(number):
        seats = Seats(20, 20, table, number, tmp_path / "turn")
        results.put(sum(seats.take(guest, ("A", "1")) is None for guest in range(40)))

    processes = [context.Process(target=grab, args=(number,)) for number in (1, 2)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    assert results.get() + results.get() == 20


def test_the_process_with_fewer_connections_comes_first():
    crowd = Crowd(2)
    assert not crowd.is_larger(1)
    crowd.note(1, 3)
    assert (crowd.is_larger(1), crowd.is_larger(2)) == (True, False)
    crowd.note(2, 3)
    assert (crowd.is_larger(1), crowd.is_larger(2)) == (False, False)


def test_one_sign_speaks_for_all_that_refuse(tmp_path, caplog):
    sign, much, none = tmp_path / "sign", Watermarks(1 << 60, 1 << 61), Watermarks(0, 0)
    first = DiskRoom(tmp_path, much, sign, "images are")
    second = DiskRoom(tmp_path, much, sign, "images are")
    assert (first.has_room(), second.has_room()) == (False, False)
    assert len(caplog.records) == 1
    assert is_held(sign)
    first.close()  # as its end does
    assert not is_held(sign)
    assert not second.has_room()
    assert is_held(sign)
    assert len(caplog.records) == 2
    second._marks = none
    assert second.has_room()
    assert not is_held(sign)


def test_a_turn_goes_round_and_a_process_that_died_with_it_keeps_nobody(tmp_path):
    first, second = Turn(tmp_path / "x"), Turn(tmp_path / "x")
    order = []

    def write(turn, name):
        for _ in range(20):
            with turn.taken(5):
                order.append(name)
                time.sleep(0.002)

    threads = [threading.Thread(target=write, args=(t, n)) for t, n in ((first, "a"), (second, "b"))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    both = "".join(order).strip("a").strip("b").strip("a")
    assert "aaa" not in both
    assert "bbb" not in both
    child = os.fork()
    if child == 0:
        mine = Turn(tmp_path / "x")
        with mine.taken(5):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    began = time.monotonic()
    with first.taken(5):
        assert time.monotonic() - began < 1
    # One that holds it without end delays, and no more.
    with first.taken(5), second.taken(0.2):
        pass
