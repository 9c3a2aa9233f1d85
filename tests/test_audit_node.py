"""The audit trail of a real node: complete, chained, without patients; and what people may do to the node."""

import json
import multiprocessing
import os
import pwd
import shutil
import stat
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import yaml

from dicom_node.cli.access import person
from dicom_node.demo.archive import start_archive
from dicom_node.network.requestor import RemoteAE
from dicom_node.network.scu import Outgoing, send
from harness import EMODE, Node, node_config
from peers.still import breast_still, region, write

MARKED = "MARKEDNAME^PATIENT"


def sent(node, paths, calling="SCANNER"):
    remote = RemoteAE("node", "EMODE", "127.0.0.1", node.port, calling, 10, 60)
    return list(send(remote, [Outgoing.of(path) for path in paths]))


def kinds(records):
    return [record["event"]["kind"] for record in records]


@pytest.mark.slow
def test_the_trail_of_a_real_node(tmp_path):
    stills = [
        write(
            breast_still(
                seed=number,
                instance_number=number,
                rows=200,
                columns=260,
                regions=[region((20, 20, 240, 180))],
                patient_name=MARKED,
            ),
            tmp_path / f"{number}.dcm",
        )
        for number in (1, 2)
    ]
    config = {"accept_unknown_peers": False, "peers": [{"ae_title": "SCANNER", "addresses": ["127.0.0.1"]}]}
    old = os.umask(0)  # the node's own mask has to do
    try:
        with start_archive(tmp_path / "archive", callers=("EMODE",)) as archive:
            node = Node(tmp_path, node_config(tmp_path, {"archive": (archive.aet, archive.port)}, **config))
            with node:
                assert all(one.error is None for one in sent(node, stills))
                assert all(one.error is not None for one in sent(node, stills, calling="STRANGER"))
                node.wait_for_stage(2, "confirmed")
                job = node.facts("jobs", "list", "--state", "done")[0]["id"]
                node.emode("jobs", "cancel", str(job), check=False)  # it is done: nothing to cancel
                node.emode("destinations", "try", "archive")
                node.kill_role("worker")
                node.wait(lambda: node.events("role-restart"), "the worker is started again")
                node.stop()
            node.config_file.write_text(node.config_file.read_text() + "\n# edited\n")
            with node:
                node.stop()
    finally:
        os.umask(old)

    verdict = node.facts("audit", "verify")
    assert verdict["problem"] is None
    records = node.facts("audit", "list", "--limit", "1000")
    assert [record["number"] for record in records] == sorted(record["number"] for record in records)
    by_kind = {kind: [r["event"] for r in records if r["event"]["kind"] == kind] for kind in kinds(records)}
    assert len(by_kind["node-started"]) == len(by_kind["node-stopped"]) == 2
    assert len(by_kind["configuration-changed"]) == 2
    assert "ended with status -9" in by_kind["process-ended"][0]["words"]

    study = str(breast_still(seed=1).StudyInstanceUID)
    (arrived,) = by_kind["instances-arrived"]
    assert arrived["things"][0]["id"] == study
    assert [count for _, count in arrived["things"][0]["instances"]] == [2]
    assert [actor["name"] for actor in arrived["actors"]] == ["SCANNER", "EMODE"]
    (stranger,) = by_kind["association-rejected"]
    assert (stranger["actors"][0]["name"], stranger["outcome"]) == ("STRANGER", 8)
    for kind in ("delivery-begun", "instances-delivered", "delivery-confirmed"):
        told = by_kind[kind]
        assert {event["things"][0]["id"] for event in told} == {study}
        assert sum(count for event in told for _, count in event["things"][0]["instances"]) == 2
        assert [actor["name"] for actor in told[0]["actors"]] == ["EMODE", archive.aet]
    assert by_kind["association-accepted"][0]["actors"][0]["name"] == "SCANNER"
    ended = [*by_kind["association-released"], *by_kind.get("association-aborted", ())]
    assert len(by_kind["association-accepted"]) == len(ended), node.emode("audit", "list").stdout
    assert by_kind["study-viewed"][0]["things"][0]["id"] == study
    assert len(by_kind["study-viewed"]) <= 2  # `status` was asked again and again
    assert by_kind["breaker-changed"][0]["things"][0]["id"] == "archive"
    assert "job-cancelled" not in by_kind

    # The head is in the ordinary log, and proves the trail against somebody who rewrites all of it.
    told = node.events("audit-head")[-1]["head"]
    assert node.facts("audit", "verify", "--head", told)["problem"] is None
    folder = tmp_path / "data" / "audit"
    text = "".join(path.read_text() for path in folder.glob("*.jsonl"))
    assert "MARKEDNAME" not in text
    assert "TEST-" not in text  # patient ID and accession number of the test study
    xml = node.emode("audit", "list", "--kind", "instances-arrived", "--xml").stdout
    assert xml.count("<AuditMessage>") == 1
    assert "instances arrived" in node.emode("audit", "list", "--study", study, "--who", "SCANNER").stdout
    assert kinds(node.facts("audit", "list", "--kind", "audit-log-used")) == ["audit-log-used"]

    found = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    assert len(found) > 20
    for path in found:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path}: {mode:o}"

    (segment,) = folder.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b"STRANGER", b"FRIENDLY"))
    done = node.emode("audit", "verify", check=False)
    assert done.returncode == 1
    assert "NOT INTACT" in done.stdout


@pytest.fixture
def guarded(tmp_path):
    """A configuration with roles, and a database made by hand: `emode` alone, no node."""

    def make(**access):
        config = node_config(tmp_path, {"archive": ("PACS", 1)}) | {"access": access}
        path = tmp_path / "node.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return make


def emode(*arguments, config, user=None, **environment):
    return subprocess.run(
        [str(EMODE), *arguments, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | environment,
        user=user,
    )


ME = pwd.getpwuid(os.getuid()).pw_name


def test_a_denied_command_names_the_role_and_who_grants_it_and_is_recorded(guarded, tmp_path):
    config = guarded(admins=["alice", "@radiology-it"])
    done = emode("status", config=config)
    assert done.returncode == 1
    assert f"to look at studies takes the role viewer; {ME} has no role here" in done.stderr
    assert "An admin (@radiology-it, alice) can grant it under access" in done.stderr
    denied = emode("audit", "list", config=config)
    assert f"takes the role admin; {ME} has no role here" in denied.stderr
    config = guarded(admins=[ME])
    assert [
        e["event"]["words"] for e in json.loads(emode("audit", "list", "--json", config=config).stdout)
    ] == [
        "denied: look at studies",
        "denied: read the audit trail",
    ]


def test_a_viewer_may_look_and_not_touch(guarded):
    config = guarded(viewers=[ME], admins=["alice"])
    assert "there is no database yet" in emode("status", config=config).stderr
    done = emode("jobs", "retry", "1", config=config)
    assert f"to retry jobs takes the role operator; {ME} is a viewer" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, to be somebody else")
def test_behind_sudo_it_is_the_person_and_only_root_is_believed(guarded, monkeypatch):
    config = guarded(viewers=["daemon"], admins=["alice"])
    daemon = str(pwd.getpwnam("daemon").pw_uid)
    assert "no database yet" in emode("status", config=config, SUDO_UID=daemon).stderr
    assert "root has no role here" in emode("status", config=config).stderr
    config.chmod(0o666)
    own = emode("status", config=config, SUDO_UID=daemon)
    assert own.returncode == 2
    assert "nobody else may write to it" in " ".join(own.stderr.split())
    config.chmod(0o600)
    monkeypatch.setenv("SUDO_UID", daemon)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as other:
        assert other.submit(_as_nobody).result() == "nobody"


def _as_nobody():
    os.setuid(pwd.getpwnam("nobody").pw_uid)
    return person(Path("/")).name


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, to be somebody else")
def test_what_root_records_stays_writable_for_the_nodes_account(guarded, tmp_path):
    config = guarded(admins=["alice"])
    data = tmp_path / "data"
    data.mkdir()
    shutil.chown(data, "nobody", "nogroup")
    emode("status", config=config)
    nobody = pwd.getpwnam("nobody").pw_uid
    assert {path.stat().st_uid for path in (data / "audit", *(data / "audit").iterdir())} == {nobody}


def test_without_roles_everybody_may_and_check_says_so(guarded):
    config = guarded()
    assert (
        "roles: none."
        in subprocess.run(
            [str(EMODE), "check", str(config)], capture_output=True, text=True, timeout=120, check=True
        ).stdout
    )
    assert "no database yet" in emode("status", config=config).stderr
