"""The supervisor with real processes: what it starts, what ends with it, what they share."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dicom_node.store.files import Layout
from dicom_node.store.process import is_held
from harness import Node, node_config

PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from dicom_node.supervise import Post, Role, Supervisor, end_with_parent, report_ready, stop_on_signal
from dicom_node.telemetry.log import set_up_logging

set_up_logging("info", "json")
folder = Path(sys.argv[1])


def serve():
    stop = threading.Event()
    stop_on_signal(stop.set)
    end_with_parent(stop)
    report_ready()
    stop.wait()


def be(post, last_end):
    with (folder / post.name).open("a") as file:
        file.write(f"{os.getpid()} {last_end}\\n")
    if post.role is Role.WORKER:
        DO_THIS
    serve()


supervisor = Supervisor({Post(Role.RECEIVER): 500, Post(Role.RECEIVER, 2): 500, Post(Role.WORKER): 300}, be)
supervisor.heed_signals()
sys.exit(supervisor.run())
"""


class Running:
    """A supervisor whose processes do next to nothing."""

    def __init__(self, folder, worker="pass"):
        self.folder = folder
        self.log_file = folder / "log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM.replace("DO_THIS", worker), str(folder)], stderr=log
            )

    def lines(self, action, **fields):
        """Log lines with this action and these fields."""
        found = [json.loads(line) for line in self.log_file.read_text().splitlines() if line[:1] == "{"]
        return [line for line in found if ({"action": action} | fields).items() <= line.items()]

    def began(self, name):
        """(pid, how the one before it ended) of each process of a post."""
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), words) for pid, _, words in (line.partition(" ") for line in lines)]

    def wait(self, there, timeout_s=30):
        """Wait until it is so."""
        deadline = time.monotonic() + timeout_s
        while not there():
            assert time.monotonic() < deadline, self.log_file.read_text()
            time.sleep(0.02)

    def close(self):
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for name in ("receiver", "receiver-2", "worker"):
            for pid, _ in self.began(name):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def run(tmp_path):
    started = []

    def start(**how):
        started.append(Running(tmp_path, **how))
        return started[-1]

    yield start
    for each in started:
        each.close()


def is_alive(pid):
    """Does it live, and is no zombie?"""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def newest(running):
    return {name: running.began(name)[-1][0] for name in ("receiver", "receiver-2", "worker")}


def test_one_that_is_killed_is_started_again_and_knows_how_the_one_before_ended(run):
    node = run()
    node.wait(lambda: node.lines("node-ready"))
    before = newest(node)
    os.kill(before["receiver-2"], signal.SIGKILL)
    node.wait(lambda: len(node.lines("ready", role="receiver", number=2)) == 2)
    after = newest(node)
    assert {name for name in before if after[name] != before[name]} == {"receiver-2"}
    assert node.began("receiver-2")[-1][1] == "its process was ended by signal 9"
    assert node.began("receiver")[-1][1] == ""
    node.process.terminate()
    assert node.process.wait(20) == 0
    assert not any(map(is_alive, after.values()))


def test_the_supervisor_has_one_thread_for_it_forks(run):
    node = run()
    node.wait(lambda: node.lines("node-ready"))
    assert len(list(Path(f"/proc/{node.process.pid}/task").iterdir())) == 1


def test_whatever_ends_the_supervisor_ends_its_processes_each_by_itself(run):
    node = run()
    node.wait(lambda: node.lines("node-ready"))
    pids = newest(node)
    # One that does not move must not keep the others from seeing that the supervisor is gone.
    os.kill(pids["worker"], signal.SIGSTOP)
    node.process.kill()
    node.process.wait()
    node.wait(lambda: not is_alive(pids["receiver"]) and not is_alive(pids["receiver-2"]))
    assert is_alive(pids["worker"])
    os.kill(pids["worker"], signal.SIGCONT)
    node.wait(lambda: not is_alive(pids["worker"]))


def test_a_process_has_nothing_open_that_is_the_supervisors(run):
    node = run()
    node.wait(lambda: node.lines("node-ready"))
    os.kill(newest(node)["receiver"], signal.SIGKILL)  # one that is forked beside others that live
    node.wait(lambda: len(node.lines("ready", role="receiver")) == 3)

    def opened(pid):
        links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
        return {link for link in links if "pipe:" in link or "anon_inode" in link}

    pids = newest(node)
    for name, pid in pids.items():
        others = set().union(*(opened(other) for also, other in pids.items() if also != name))
        assert opened(pid) & others == set()
        # Its input, its output, and the two by which `multiprocessing` sees that one side has ended.
        assert len(opened(pid) & opened(node.process.pid)) == 4


def test_a_child_of_a_process_counts_for_its_memory_and_goes_with_it(run):
    eats = (
        "import subprocess; time.sleep(1); "
        "subprocess.run([sys.executable, '-c', 'import time; a = bytearray(400 << 20); time.sleep(60)'])"
    )
    node = run(worker=f"(lambda: None)() if last_end else exec({eats!r})")
    node.wait(lambda: len(node.began("worker")) == 2)
    (line,) = node.lines("role-too-large")
    assert line["mib"] > 300
    assert "where 300 are allowed" in node.began("worker")[-1][1]
    node.wait(lambda: node.lines("node-ready"))


def test_one_that_cannot_start_is_tried_again_with_growing_pauses(run):
    node = run(worker="sys.exit(3)")
    node.wait(lambda: len(node.lines("role-restart")) == 3)
    assert [line["seconds"] for line in node.lines("role-restart")] == [0.5, 1.0, 2.0]
    assert {line["status"] for line in node.lines("role-restart")} == {3}
    assert [line["role"] for line in node.lines("ready")] == ["receiver", "receiver"]


def test_what_a_library_prints_is_read_and_is_no_word_of_the_process(run):
    node = run(worker="print('x' * 200_000); print('[1]'); print('{'); sys.stdout.flush()")
    node.wait(lambda: node.lines("node-ready"))
    assert len(node.lines("ready", role="worker")) == 1


def test_a_signal_during_the_start_is_not_lost(run):
    node = run(worker="time.sleep(60)")
    node.wait(lambda: node.began("worker") and len(node.lines("ready")) == 2)
    node.process.send_signal(signal.SIGHUP)  # only those that are ready are told, and none dies of it
    node.wait(lambda: node.lines("reload"))
    node.process.terminate()
    assert node.process.wait(20) == 0
    assert node.lines("role-restart") == []


def test_the_locks_of_a_node_that_is_killed_are_free(tmp_path):
    layout = Layout(tmp_path / "data")
    with Node(tmp_path, node_config(tmp_path, {"archive": ("PACS", 1)})) as node:
        pids = node.pids()
        os.kill(pids["courier"], signal.SIGSTOP)
        os.kill(node.supervisor_pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(is_held(layout.lock(name)) for name in ("supervisor", "receiver", "worker")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert is_held(layout.lock("courier"))
        os.kill(pids["courier"], signal.SIGCONT)
        while is_held(layout.lock("courier")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
