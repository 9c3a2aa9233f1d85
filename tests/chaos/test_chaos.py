"""The short campaign, and the parts of it that can be wrong without anybody noticing."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from chaos.bench import Clock
from chaos.campaign import run_campaign
from chaos.plan import SHARES, draw_plan
from chaos.wire import Wire
from dicom_node.core.faults import STEPS
from dicom_node.demo.orthanc import find_orthanc


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_is_lost_in_a_short_campaign(dcmtk, tmp_path):
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run deploy/install-test-peers.sh")
    report = run_campaign(tmp_path / "world", 25, seed=int(os.environ.get("SEED", "4")))
    assert report.holds, report.text()
    assert sum(report.faults.values()) == 25
    assert report.verdict.totals["images acknowledged"] > 0


def test_every_kind_and_every_step_is_drawn():
    plan = draw_plan(500, seed=1)
    faults = [fault for lane in plan.values() for fault in lane]
    assert len(faults) == 500
    assert {fault.kind for fault in faults} == set(SHARES)
    steps = Counter(fault.step for fault in faults if fault.kind == "kill at a named step")
    assert set(steps) == {name for name, _ in STEPS}
    assert min(steps.values()) >= 3
    assert {fault.kind for lane in draw_plan(25, seed=1).values() for fault in lane} == set(SHARES)


def test_same_seed_same_faults():
    assert draw_plan(80, seed=7) == draw_plan(80, seed=7) != draw_plan(80, seed=8)


def test_wire_is_cut_at_the_byte_it_was_told():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(listener.getsockname()[1])
        got = bytearray()

        def take():
            with listener.accept()[0] as peer:
                while data := peer.recv(100):
                    got.extend(data)

        taker = threading.Thread(target=take)
        taker.start()
        cut = wire.cut_after(1234, "there")
        with socket.create_connection(("127.0.0.1", wire.port)) as caller:
            caller.sendall(b"x" * 1200)
            caller.sendall(b"x" * 1200)
            assert cut.wait(20)
            assert caller.recv(1) == b""
        taker.join(20)
        wire.close()
    assert len(got) == 1234


def test_clock_of_a_process_is_set_while_it_runs(tmp_path):
    clock = Clock(tmp_path)
    if not clock.can_be_set:
        pytest.skip("no C compiler")
    program = (
        "import datetime, sys, time\n"
        "for line in sys.stdin:\n"
        "    print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | clock.environment,
    ) as child:
        seen = []
        for offset in (0, -86400, 7200):
            clock.set(offset)
            child.stdin.write("\n")
            child.stdin.flush()
            at, aware, monotonic = map(float, child.stdout.readline().split())
            assert abs(at - time.time() - offset) < 30
            assert abs(aware - at) < 1
            seen.append(monotonic)
        child.stdin.close()
    assert sorted(seen) == seen
    assert seen[-1] - seen[0] < 30
