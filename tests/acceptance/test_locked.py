"""Somebody holds the database's lock for longer than we wait for it: a pause, no loss, nothing twice."""

import sqlite3
import threading
import time

import pydicom
import pytest
from pynetdicom import AE

from harness import Node, node_config
from peers.still import breast_still, write

pytestmark = [pytest.mark.peers, pytest.mark.slow]

US = "1.2.840.10008.5.1.4.1.1.6.1"


def test_a_database_locked_for_longer_than_the_patience_loses_and_doubles_nothing(orthanc, tmp_path):
    pacs = orthanc()
    config = node_config(tmp_path, {"archive": ("PACS", pacs.port)})
    config["inference"] = {"max_attempts": 1}
    config["destinations"]["archive"]["retry"]["max_attempts"] = 1
    paths = [write(breast_still(seed=n, instance_number=n), tmp_path / f"{n}.dcm") for n in range(8)]
    answers = []

    def send(node):
        for path in paths:
            ds = pydicom.dcmread(path)
            while True:
                ae = AE("SCANNER")
                ae.dimse_timeout = 60
                ae.add_requested_context(US, ds.file_meta.TransferSyntaxUID)
                association = ae.associate("127.0.0.1", node.port, ae_title="EMODE")
                status = association.send_c_store(ds).get("Status")
                association.release()
                answers.append(status)
                if status == 0x0000:
                    break

    with Node(tmp_path, config) as node:
        sender = threading.Thread(target=send, args=(node,))
        sender.start()
        node.wait(lambda: answers.count(0) >= 3, "the node is at work")
        holder = sqlite3.connect(tmp_path / "data" / "state.sqlite", isolation_level=None, timeout=30)
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(40)  # the node waits 30 s for it
        holder.close()
        sender.join(120)
        assert not sender.is_alive()
        assert set(answers) == {0x0000, 0xA700}
        lines = node.wait_for_stage(8, "confirmed", timeout_s=120)
        assert node.events("role-restart") == []
        jobs = node.facts("jobs", "list", "--state", "done", "--limit", "1000")
        assert {job["attempts"] for job in jobs if job["kind"] != "confirm"} == {1}
    results = [result["sop_instance_uid"] for line in lines for result in line["results"]]
    assert len(results) == 8
    assert sorted(pacs.sop_instance_uids()) == sorted(results)
