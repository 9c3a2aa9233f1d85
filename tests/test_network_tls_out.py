"""DICOM over TLS, out: what is sent, and what a person reads when it fails."""

import json
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime

import pytest

from dicom_node.config import load_config
from dicom_node.core.errors import TlsFailed
from dicom_node.network.scu import echo
from dicom_node.node.peers import remotes_of
from harness import EMODE, Node, node_config
from peers.certificates import Authority, Pair, put
from peers.still import breast_still, write

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("stranger"), "Other CA")


def tls(authority: Authority, pair: Pair | None, **more) -> dict:
    own = {"certificate": str(pair.certificate), "key": str(pair.key)} if pair else {}
    return {"trust": str(authority.certificate), **own, **more}


def calling(folder, port: int, section: dict) -> Node:
    """A node that is never started: its configuration, for the commands that call."""
    config = node_config(folder, {"archive": ("PACS", port)})
    config["destinations"]["archive"]["tls"] = section
    return Node(folder, config)


def server_options(authority: Authority, pair: Pair, *more: str) -> tuple[str, ...]:
    return ("+tls", str(pair.key), str(pair.certificate), "+cf", str(authority.certificate), *more)


@pytest.mark.parametrize("profile", ["--profile-bcp195", "--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_every_profile_of_dcmtk_answers(authority, storescp, tmp_path, profile):
    pair = authority.issue("PACS")
    pacs = storescp("PACS", options=server_options(authority, pair, profile))
    node = calling(tmp_path / "node", pacs.port, tls(authority, authority.issue("node")))
    agreed = echo(remotes_of(load_config(node.config_file))["archive"]).tls
    assert agreed.protocol in ("TLSv1.2", "TLSv1.3")
    assert agreed.peer.fingerprint == pair.fingerprint


def test_echo_and_send_over_tls_from_the_command_line(authority, storescp, tmp_path):
    pair = authority.issue("PACS")
    pacs = storescp("PACS", options=server_options(authority, pair))
    node = calling(tmp_path / "node", pacs.port, tls(authority, authority.issue("node")))
    facts = node.facts("echo", "archive")
    assert facts["ok"]
    assert "GCM" in facts["tls"]["cipher"]
    assert facts["tls"]["fingerprint"] == f"sha256:{pair.fingerprint}"
    assert datetime.fromisoformat(facts["tls"]["expires"]) > datetime.now(UTC)
    assert "certificate: CN=PACS" in node.emode("echo", "archive").stdout
    path = write(breast_still(), tmp_path / "image.dcm")
    node.emode("send", str(path), "--to", "archive")
    assert len(pacs.wait_for(1)) == 1


def why(node: Node) -> str:
    """What a person reads who calls the archive."""
    with pytest.raises(TlsFailed) as caught:
        echo(remotes_of(load_config(node.config_file))["archive"])
    return str(caught.value)


def test_an_archive_that_is_not_the_one_meant_gets_nothing(authority, stranger, storescp, tmp_path):
    elsewhere = authority.issue("PACS", dns=("pacs.local",), addresses=())
    pacs = storescp("PACS", options=server_options(authority, elsewhere))
    ours = authority.issue("node")
    cases = [
        (tls(authority, ours), "its certificate is for another host; set tls.server_name"),
        (tls(stranger, ours), "its certificate comes from nobody in our trust file"),
        (
            tls(authority, ours, verify="fingerprint", fingerprints=["0" * 64]),
            "its certificate is none of tls.fingerprints",
        ),
        (tls(authority, None, verify="chain"), "certificate"),
        (tls(authority, stranger.issue("node"), verify="chain"), "certificate"),
    ]
    for number, (section, words) in enumerate(cases):
        assert words in why(calling(tmp_path / str(number), pacs.port, section))
    for number, more in enumerate(
        (
            {"server_name": "pacs.local"},
            {"verify": "fingerprint", "fingerprints": [elsewhere.fingerprint]},
            {"verify": "chain"},
        )
    ):
        node = calling(tmp_path / f"good-{number}", pacs.port, tls(authority, ours, **more))
        assert echo(remotes_of(load_config(node.config_file))["archive"]).tls


def test_an_expired_archive_a_plain_one_and_a_silent_one(authority, storescp, tmp_path):
    ours = authority.issue("node")
    expired = storescp("PACS", options=server_options(authority, authority.issue("PACS", days=-2)))
    section = tls(authority, ours)
    assert "its certificate has expired" in why(calling(tmp_path / "expired", expired.port, section))
    plain = storescp("PACS")
    words = why(calling(tmp_path / "plain", plain.port, section))
    assert "it closed the connection during the TLS handshake" in words or "does not speak TLS" in words
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = calling(tmp_path / "silent", silent.getsockname()[1], section)
        assert "did not finish the TLS handshake in time" in why(node)


def test_what_the_archive_says_of_our_certificate(authority, stranger, tmp_path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    pair = authority.issue("PACS")
    context.load_cert_chain(pair.certificate, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connected, _ = listening.accept()
            except OSError:
                return
            try:
                context.wrap_socket(connected, server_side=True).close()
            except OSError:
                connected.close()

    thread = threading.Thread(target=serve)
    thread.start()
    port = listening.getsockname()[1]
    try:
        nobody = calling(tmp_path / "nobody", port, tls(authority, None))
        assert "it asks for our certificate; set tls.certificate and tls.key" in why(nobody)
        foreign = calling(tmp_path / "foreign", port, tls(authority, stranger.issue("node")))
        assert "it does not know who issued our certificate" in why(foreign)
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def test_commands_refuse_what_is_not_safe_or_cannot_work(authority, tmp_path):
    pair = authority.issue("node")
    node = calling(tmp_path / "node", 1, tls(authority, pair))
    assert "valid" in node_check(node).stdout
    pair.key.chmod(0o640)
    for done in (node_check(node), node.emode("serve", check=False)):
        assert done.returncode == 2
        words = " ".join(done.stderr.split())
        assert "destinations.archive.tls: A file that holds a secret is open to others" in words
        assert f"run: chmod 600 {pair.key}" in words
    pair.key.chmod(0o600)
    put(authority.issue("node", days=-2), pair.certificate, pair.key)
    done = node_check(node)
    assert done.returncode == 2
    assert "EXPIRED on" in done.stderr


def node_check(node: Node) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EMODE, "check", str(node.config_file)], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_study_goes_round_over_tls_and_survives_an_archive_that_changes_its_identity(
    authority, orthanc, tmp_path
):
    """Orthanc routes to the node over TLS, gets the results back over TLS, and its certificate is renewed."""
    pair, ours = authority.issue("PACS"), authority.issue("node", days=20)
    place = Pair(tmp_path / "node.pem", tmp_path / "node.key")
    put(ours, place.certificate, place.key)
    pacs = orthanc(
        modalities={"emode": ("EMODE", "127.0.0.1", 1)},
        tls=(pair.certificate, pair.key, authority.certificate),
    )
    config = node_config(
        tmp_path / "node",
        {"archive": ("PACS", pacs.port)},
        accept_unknown_peers=False,
        peers=[
            {
                "ae_title": "PACS",
                "addresses": ["127.0.0.1"],
                "certificates": [pair.fingerprint],
            }
        ],
        listen={"port": None, "tls": {"port": 0, **tls(authority, place)}},
    )
    config["destinations"]["archive"]["tls"] = tls(authority, place)
    sources = [
        write(breast_still(seed=number, instance_number=number, study="tls"), tmp_path / f"{number}.dcm")
        for number in (1, 2)
    ]
    with Node(tmp_path / "node", config) as node:
        pacs.set_modality("emode", "EMODE", "127.0.0.1", node.tls_port)
        pacs.echo("emode")
        for path in sources[:1]:
            pacs.route("emode", pacs.upload(path))
        node.wait_for_stage(1, "confirmed")
        (line,) = node.events("association-requested", peer="PACS", fingerprint=pair.fingerprint)[:1]
        assert line["address"] == "127.0.0.1"
        node.wait(
            lambda: node.events("certificate-ends-soon", path=str(place.certificate)), "warned of its end"
        )
        status = node.facts("status")
        assert [each["days_left"] for each in status["certificates"]] == [19]
        assert "expires on" in node.emode("status").stdout
        put(authority.issue("node"), place.certificate, place.key)
        node.reload()
        for use in ("listen.tls", "destinations.archive.tls"):
            node.wait(
                lambda use=use: len(node.events("certificates-loaded", use=use)) > 1, f"{use} is read anew"
            )
        for path in sources[1:]:
            pacs.route("emode", pacs.upload(path))
        node.wait_for_stage(2, "confirmed")
        assert node.facts("status")["certificates"] == []
        assert "PACS" in json.loads((tmp_path / "node" / "data" / "peer-certificates.json").read_text())
    assert len(pacs.instances()) == 4
