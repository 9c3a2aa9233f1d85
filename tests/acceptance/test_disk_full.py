"""A disk that really fills up: refused before the end, nothing lost at the end, and on again by itself."""

import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pydicom
import pytest
from pynetdicom import AE

from harness import Node, node_config
from peers.still import breast_still, write

pytestmark = pytest.mark.peers

US = "1.2.840.10008.5.1.4.1.1.6.1"
MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system (root may)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Ballast:
    """A file that takes what room there is."""

    def __init__(self, folder):
        self.path = folder / "ballast"

    def leave(self, free_bytes):
        """Grow or shrink until this much is free, or less if others are faster."""
        for _ in range(100):
            has = self.path.stat().st_size if self.path.exists() else 0
            wanted = max(0, has + shutil.disk_usage(self.path.parent).free - free_bytes)
            with self.path.open("ab") as file, suppress(OSError):
                file.truncate(min(has, wanted))
                if wanted > has:
                    os.posix_fallocate(file.fileno(), has, wanted - has)
                return


def send(port, path):
    """The status of one C-STORE, or None without an answer."""
    ae = AE("SCANNER")
    ae.dimse_timeout = 90
    ds = pydicom.dcmread(path)
    ae.add_requested_context(US, ds.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port, ae_title="EMODE")
    if not association.is_established:
        return None
    try:
        return association.send_c_store(ds).get("Status")
    finally:
        if association.is_established:
            association.release()


def test_images_are_refused_below_the_low_mark_and_taken_again_above_the_high_one(
    orthanc, small_disk, tmp_path
):
    pacs, ballast = orthanc(), Ballast(small_disk)
    config = node_config(
        tmp_path,
        {"archive": ("PACS", pacs.port)},
        data_dir=str(small_disk),
        limits={"min_free_mib": 16, "resume_free_mib": 24},
    )
    paths = [write(breast_still(seed=n, instance_number=n), tmp_path / f"{n}.dcm") for n in range(3)]
    with Node(tmp_path, config) as node:
        assert send(node.port, paths[0]) == 0x0000
        ballast.leave(12 * MIB)
        node.wait(lambda: node.events("disk-full"), "it says so, although nobody sends")
        assert send(node.port, paths[1]) == 0xA700
        text = node.emode("status").stdout
        assert "refusing images: " in text
        assert "MiB free, takes them again above 24 MiB" in text
        ballast.leave(20 * MIB)  # between the marks
        assert send(node.port, paths[1]) == 0xA700
        ballast.leave(30 * MIB)
        node.wait(lambda: node.events("disk-has-room"), "it says so")
        assert [send(node.port, path) for path in paths[1:]] == [0x0000, 0x0000]
        node.wait_for_stage(3, "confirmed")
        assert [len(node.events(action)) for action in ("disk-full", "disk-has-room")] == [1, 1]
        assert "refusing" not in node.emode("status").stdout
        ballast.leave(6 * MIB)  # below half of it the model rests too, and what is made is delivered
        node.wait(lambda: len(node.events("disk-full")) == 3, "the worker says so")
        assert "the model rests: " in node.emode("status").stdout
    assert len(pacs.sop_instance_uids()) == 3


def test_a_disk_that_is_full_to_the_last_byte_loses_nothing_and_costs_no_try(orthanc, small_disk, tmp_path):
    pacs, ballast = orthanc(), Ballast(small_disk)
    config = node_config(tmp_path, {"archive": ("PACS", pacs.port)}, data_dir=str(small_disk))
    config["inference"] = {"max_attempts": 1}
    config["destinations"]["archive"]["retry"]["max_attempts"] = 1
    paths = [write(breast_still(seed=n, instance_number=n), tmp_path / f"{n}.dcm") for n in range(12)]
    with Node(tmp_path, config) as node, ThreadPoolExecutor(1) as pool:

        def taken(path):
            while (status := send(node.port, path)) != 0x0000:
                assert status in (0xA700, None), status
            return True

        assert taken(paths[0])
        sending = pool.map(taken, paths[1:])
        for free in (0, 300_000, 0, 100_000, 0):  # in the middle of whatever it does
            ballast.leave(free)
            time.sleep(2)
        ballast.leave(64 * MIB)
        assert all(sending)
        lines = node.wait_for_stage(12, "confirmed", timeout_s=120)
        assert node.events("role-restart") == []
        jobs = node.facts("jobs", "list", "--state", "done", "--limit", "1000")
        assert {job["attempts"] for job in jobs if job["kind"] == "infer"} == {1}
    results = [result["sop_instance_uid"] for line in lines for result in line["results"]]
    assert len(results) == 12
    assert sorted(pacs.sop_instance_uids()) == sorted(results)
