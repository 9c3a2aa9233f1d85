"""Proof of delivery over a real node: Orthanc commits or lists over the web; processes die in between."""

import threading
import time

import pytest

from harness import Node, node_config
from peers.committer import Committer, event_information
from peers.dcmtk import storescu
from peers.still import breast_still, write

pytestmark = pytest.mark.peers


def stills(folder, numbers):
    return [
        write(breast_still(seed=n, instance_number=n, rows=300, columns=400), folder / f"{n}.dcm")
        for n in numbers
    ]


def ways(node):
    return [way for line in node.images() for result in line["results"] for way in result["deliveries"]]


def test_orthanc_commits_to_every_result(orthanc, tmp_path):
    pacs = orthanc(modalities={"emode": ("EMODE", "127.0.0.1", 1)})
    config = node_config(
        tmp_path,
        {"archive": ("PACS", pacs.port)},
        peers=[{"ae_title": each, "addresses": ["127.0.0.1"]} for each in ("PACS", "STORESCU")],
        accept_unknown_peers=False,
    )
    config["destinations"]["archive"] |= {"confirm": "commitment", "commitment_timeout_s": 600}
    with Node(tmp_path, config) as node:
        pacs.set_modality("emode", "EMODE", "127.0.0.1", node.port)
        assert node.facts("probe", "archive")["offer"]["commitment"]["ok"] is True
        storescu(stills(tmp_path, range(3)), "127.0.0.1", node.port, aec="EMODE")
        node.wait_for_stage(3, "confirmed")
        assert {way["confirmed_by"] for way in ways(node)} == {"commitment"}
        assert "by commitment" in node.emode("status").stdout
        # Orthanc reports before it has answered: nothing was asked twice, and nobody slept.
        assert sum(event["count"] for event in node.events("commitment-asked")) == 3
        assert len(node.events("commitment-reported")) == len(node.events("commitment-asked"))
    assert len(pacs.instances()) == 3


def test_orthanc_lists_every_result_by_qido(orthanc, dicom_web, tmp_path):
    pacs = orthanc(dicom_web=True)
    config = node_config(tmp_path, {"archive": ("PACS", pacs.port)})
    url = f"http://127.0.0.1:{pacs.http_port}/dicom-web"
    token = tmp_path / "token"
    token.write_text("Bearer 0123456789-secret\n")
    token.chmod(0o600)
    config["destinations"]["archive"] |= {
        "confirm": "qido",
        "qido_url": url,
        "qido_authorization_file": str(token),
    }
    with Node(tmp_path, config) as node:
        offer = node.facts("probe", "archive")["offer"]
        assert (offer["qido"]["ok"], offer["find"]["ok"], offer["storage"]["ok"]) == (True, True, True)
        storescu(stills(tmp_path, range(2)), "127.0.0.1", node.port, aec="EMODE")
        node.wait_for_stage(2, "confirmed")
        assert {way["confirmed_by"] for way in ways(node)} == {"qido"}
        assert "0123456789-secret" not in "\n".join(node.stderr)


def test_qido_that_is_refused_is_named_and_asked_again(orthanc, dicom_web, tmp_path):
    from dicom_node.core.errors import QueryRefused
    from dicom_node.network.qido import QidoServer, answers_qido, instances_by_qido
    from dicom_node.trust.files import Secret

    pacs = orthanc(dicom_web=True)
    (source,) = stills(tmp_path, [1])
    pacs.upload(source)
    ds = breast_still(seed=1, instance_number=1, rows=300, columns=400)
    here = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))
    base = f"http://127.0.0.1:{pacs.http_port}"

    server = QidoServer("archive", f"{base}/dicom-web/", Secret(), 10)
    found = instances_by_qido(server, {here: set(), ("2.25.1", "2.25.2"): set()})
    assert found == {here: {str(ds.SOPInstanceUID)}, ("2.25.1", "2.25.2"): set()}

    wrong = QidoServer("archive", f"{base}/no-such-place", Secret(), 10)
    assert isinstance(instances_by_qido(wrong, {here: set()})[here], QueryRefused)
    with pytest.raises(QueryRefused, match=r"HTTP status 404; check `qido_url`"):
        answers_qido(wrong)
    pacs.kill()
    # Away, but only for questions: results may be sent on, so it is no DestinationUnreachable.
    with pytest.raises(QueryRefused, match="ConnectionError; check `qido_url`"):
        answers_qido(server)


class LateArchive:
    """Takes results and questions, and reports when a test says so."""

    def __init__(self):
        self.may_report = threading.Event()
        self.archive = Committer(self.asked).start()

    def asked(self, archive, asked):
        if self.may_report.is_set():
            archive.later(lambda: archive.call_back(*event_information(asked)))
        return 0x0000


@pytest.fixture
def late():
    late = LateArchive()
    yield late
    late.archive.stop()


def test_killed_between_question_and_report(late, tmp_path):
    config = node_config(tmp_path, {"archive": ("PACS", late.archive.port)})
    config["destinations"]["archive"] |= {"confirm": "commitment", "commitment_timeout_s": 600}
    archive = late.archive
    with Node(tmp_path, config) as node:
        archive.calls_back = (node.port, "EMODE")
        storescu(stills(tmp_path, [1]), "127.0.0.1", node.port, aec="EMODE")
        node.wait(lambda: archive.questions, "the archive was asked")
        node.kill_role("courier")  # at once: the answer is most likely not on record
        node.wait(lambda: len(node.events("ready", role="courier")) == 2, "the courier is back")
        time.sleep(1)
        assert node.images()[0]["stage"] == "accepted"
        # The first report counts, although the courier that asked for it is gone.
        assert archive.call_back(*event_information(archive.questions[0])) == 0
        node.wait_for_stage(1, "confirmed")
        assert len(archive.stored) == 1  # proven, not sent again


def test_a_report_that_found_no_receiver_is_asked_for_again(late, tmp_path):
    config = node_config(tmp_path, {"archive": ("PACS", late.archive.port)})
    config["destinations"]["archive"] |= {"confirm": "commitment", "commitment_timeout_s": 8}
    config["listen"]["processes"] = 1  # or another receiver would take the report
    archive = late.archive
    with Node(tmp_path, config) as node:
        archive.calls_back = (node.port, "EMODE")
        storescu(stills(tmp_path, [1]), "127.0.0.1", node.port, aec="EMODE")
        node.wait(lambda: archive.questions, "the archive was asked")
        node.kill_role("receiver")
        assert (
            archive.call_back(*event_information(archive.questions[0])) is None
        )  # and it does not try again
        node.wait(lambda: len(node.events("ready", role="receiver")) == 2, "the receiver is back")
        archive.calls_back = (node.port, "EMODE")
        late.may_report.set()
        node.wait_for_stage(1, "confirmed")
        uids = [asked.transaction_uid for asked in archive.questions]
        assert len(set(uids)) == len(uids) >= 2
        assert len(archive.stored) == 1


@pytest.mark.parametrize(
    ("confirm", "status", "words"),
    [
        ("find", 1, "`confirm: find` is set and cannot work here; set `confirm: commitment`"),
        ("commitment", 0, "`confirm: commitment` is set, and the strongest proof it offers"),
    ],
)
def test_probe_says_what_is_offered_and_what_to_set(late, tmp_path, confirm, status, words):
    config = node_config(tmp_path, {"archive": ("PACS", late.archive.port), "away": ("PACS", 1)})
    config["destinations"]["archive"]["confirm"] = confirm
    node = Node(tmp_path, config)
    told = node.emode("probe", "archive", check=False)
    assert told.returncode == status, told.stderr
    assert words in told.stdout
    assert "list PACS among `peers`" in told.stdout
    assert late.archive.stored == []
    assert late.archive.questions == []
    away = node.emode("probe", "away", check=False)
    assert away.returncode == 3
    assert "Results cannot be sent." in away.stdout
