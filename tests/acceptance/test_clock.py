"""The clock of the machine is set by hours while the node runs: nothing waits for the hours to come again."""

import pytest

from chaos.bench import Clock
from harness import Node, node_config
from peers.dcmtk import storescu
from peers.still import breast_still, write

pytestmark = [pytest.mark.peers, pytest.mark.slow]

HOUR_S = 3600


def test_a_clock_that_is_set_back_and_forward_by_hours_stops_and_doubles_nothing(orthanc, tmp_path):
    pacs, clock = orthanc(), Clock(tmp_path)
    if not clock.can_be_set:
        pytest.skip("no C compiler for the library that sets a process's clock")
    route = {"name": "held", "destinations": ["archive"], "deliver": "when-settled"}
    config = node_config(
        tmp_path,
        {"archive": ("PACS", pacs.port)},
        routes=[route | {"match": {"body_part": []}}],
        settle={"quiet_s": 5},
    )
    with Node(tmp_path, config, clock.environment) as node:

        def send(number):
            path = write(breast_still(seed=number, instance_number=number), tmp_path / f"{number}.dcm")
            storescu([path], "127.0.0.1", node.port, aec="EMODE")

        def confirmed(count):
            node.wait_for_stage(count, "confirmed", timeout_s=100)

        send(1)
        node.wait_for_stage(1, "queued")
        clock.set(-5 * HOUR_S)  # while a delivery is held
        confirmed(1)
        send(2)
        confirmed(2)
        pacs.stop()
        send(3)
        node.wait(
            lambda: node.events("job-will-be-tried-again", kind="deliver"), "a delivery waits", timeout_s=100
        )
        clock.set(-12 * HOUR_S)  # while it waits for its next try
        pacs.start()
        confirmed(3)
        clock.set(24 * HOUR_S)
        send(4)
        confirmed(4)
        node.wait(lambda: len(node.events("clock-set")) == 3, "each change is said once")
        assert node.events("role-restart") == []
        for job in node.facts("jobs", "list", "--state", "done", "--kind", "infer", "--limit", "100"):
            assert job["attempts"] == 1
    assert len(pacs.sop_instance_uids()) == 4
