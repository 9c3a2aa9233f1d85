"""kill -9 in the middle: every acknowledged image ends with exactly one result."""

import random
import threading
import time
from itertools import count

import pydicom
import pytest

from harness import Node, node_config
from peers.scanner import store_alone
from peers.still import breast_still, write

pytestmark = pytest.mark.peers


class Sender(threading.Thread):
    """Sends one image after the other until it is told that it is enough; a broken association is renewed."""

    def __init__(self, node, images):
        super().__init__()
        self._node, self._images = node, images
        self.acknowledged = set()
        self.begun = set()
        self.enough = threading.Event()

    def run(self):
        for ds in self._images:
            if self.enough.wait(0.2):
                return
            self.begun.add(ds.SOPInstanceUID)
            deadline = time.monotonic() + 60
            while ds.SOPInstanceUID not in self.acknowledged and time.monotonic() < deadline:
                answered = store_alone(self._node.fixed_port, ds)
                if answered:
                    self.acknowledged.add(ds.SOPInstanceUID)
                elif answered is None:
                    time.sleep(0.2)


@pytest.mark.parametrize("victim", ["receiver", "worker", "courier", "everything"])
def test_acknowledged_images_survive(orthanc, tmp_path, free_port, victim):
    pacs = orthanc()
    config = node_config(
        tmp_path / "node",
        {"archive": ("PACS", pacs.port)},
        listen={"port": free_port},
        # An image that is in hand each time the worker dies looks like one that kills it.
        inference={"max_attempts": 20},
    )
    images = (  # made as they are sent: on a busy machine a process can take long to come back
        pydicom.dcmread(write(breast_still(seed=n, instance_number=n), tmp_path / f"{n}.dcm"))
        for n in count()
    )
    node = Node(tmp_path / "node", config)
    node.fixed_port = free_port
    with node:
        sender = Sender(node, images)
        sender.start()
        dice = random.Random(victim)
        for _ in range(3):
            time.sleep(dice.uniform(0.3, 1.0))
            if victim == "everything":
                node.kill()
                node.start()
            else:
                before = len(node.events("ready", role=victim))
                node.kill_role(victim)
                node.wait(lambda n=before: len(node.events("ready", role=victim)) > n, f"{victim} is back")
        assert sender.is_alive()  # so the kills came while images did
        sender.enough.set()
        sender.join(120)
        assert not sender.is_alive()
        lines = node.wait_for_stage(len(sender.begun), "confirmed", timeout_s=120)
        assert node.stop() == 0
    known = {line["sop_instance_uid"] for line in lines}
    assert sender.acknowledged == sender.begun == known
    results = [result["sop_instance_uid"] for line in lines for result in line["results"]]
    assert len(results) == len(sender.begun)
    assert sorted(pacs.sop_instance_uids()) == sorted(results)
