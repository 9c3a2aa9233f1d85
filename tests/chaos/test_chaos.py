"""The short campaign, and the parts of it that can be wrong without anybody noticing."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing

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
    seed = int(os.environ.get("SEED", "4"))
    report = run_campaign(tmp_path / "world", 25, seed, meddle=see_what_is_wrong)
    assert report.holds, report.text()
    assert sum(report.faults.values()) == 25
    assert report.verdict.totals["images acknowledged"] > 0


def see_what_is_wrong(bench, judge_again):
    """The verdict is worth nothing unless it sees what was broken on purpose."""
    if not judge_again().holds:
        return  # the campaign itself failed, and says so
    data = bench.node.data
    first, second, third, *_ = bench.node.ask(
        "SELECT i.id, i.digest, r.sop_instance_uid, r.id FROM images i"
        " JOIN image_results ON image_id = i.id JOIN results r ON r.id = result_id"
        " WHERE i.purged_at IS NULL"
    )
    source = data / "source" / first[1][:2] / f"{first[1]}.dcm"
    (data / "result" / "zz").mkdir()
    (data / "result" / "zz" / "zz.dcm").write_bytes(b"nobody's")
    pacs = bench.archives["first"]
    (there,) = pacs.find("Instance", SOPInstanceUID=second[2])
    pacs.delete(there["ID"])
    bench.archives["second"].upload(source)
    source.unlink()
    with closing(sqlite3.connect(data / "state.sqlite")) as db, db:
        db.execute("DELETE FROM image_results WHERE image_id = ?", (third[0],))
        db.execute("UPDATE deliveries SET state = 'accepted' WHERE result_id = ?", (second[3],))
        db.execute("UPDATE jobs SET state = 'waiting' WHERE image_id = ? AND kind = 'infer'", (second[0],))
    seen = {what: count for what, count in judge_again().wrong.items() if count}
    assert seen == {
        "acknowledged images lost": 1,
        "rows without their file": 1,
        "orphan files": 1,
        "results missing": 1,
        "results missing in an archive": 1,
        "results in an archive that no image has": 3,  # one uploaded, and what is left of the one forgotten
        "deliveries not confirmed": 2,
        "jobs left": 1,
    }


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
