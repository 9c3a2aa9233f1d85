"""DICOM over TLS, in: honest peers are served, whoever else comes is refused and told apart in the log."""

import json
import shutil
import signal
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from harness import Receiver, node_config
from peers.certificates import Authority, Pair, put
from peers.dcmtk import DcmtkFailed, echoscu, storescu
from peers.still import breast_still, write

pytestmark = pytest.mark.peers


class Site:
    """A receiver with TLS and plain DICOM, its files, and the certificates of those who call it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "ca")
        self.stranger = Authority(folder / "stranger", "Other CA")
        self.us1 = self.authority.issue("US1", dns=("us1.local",))
        self.us2 = self.authority.issue("US2", dns=("us2.local",))
        self.place = Pair(folder / "node.pem", folder / "node.key")
        self.trust = folder / "trust.pem"
        put(self.authority.issue("node"), self.place.certificate, self.place.key)
        shutil.copy(self.authority.certificate, self.trust)

    def config(self, folder: Path, **listen) -> dict:
        return node_config(
            folder,
            {"archive": ("PACS", 4242)},
            accept_unknown_peers=False,
            peers=[
                peer("US1", certificates=["dns:us1.local"]),
                peer("US2", certificates=[self.us2.fingerprint]),
                peer("ANYONE"),
                peer("SECURE", plain=False),
            ],
            listen={"port": 0, "request_timeout_s": 120, "tls": self.tls(), **listen},
        )

    def tls(self, **more) -> dict:
        return {
            "port": 0,
            "certificate": str(self.place.certificate),
            "key": str(self.place.key),
            "trust": str(self.trust),
            **more,
        }

    def options(self, pair: Pair | None, *more: str) -> tuple[str, ...]:
        """DCMTK's options for a client with this certificate."""
        own = ("+tls", str(pair.key), str(pair.certificate)) if pair else ("+tla",)
        return (*own, "+cf", str(self.authority.certificate), *more)


def peer(title: str, **more) -> dict:
    return {"ae_title": title, "addresses": ["127.0.0.1"], **more}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def receiver(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("receiver")
    running = Receiver(folder, site.config(folder))
    yield running
    running.stop()


def lines(receiver: Receiver) -> list[dict]:
    return [json.loads(line) for line in receiver.log.splitlines() if line.startswith("{")]


def said(receiver: Receiver, action: str, timeout_s: float = 40, **fields) -> dict:
    """Wait for a log line; what the door turns away is reported once in ten seconds."""
    wanted = {"action": action, **fields}
    limit = time.monotonic() + timeout_s
    while time.monotonic() < limit:
        for line in lines(receiver):
            if wanted.items() <= line.items():
                return line
        time.sleep(0.2)
    raise AssertionError(f"no {wanted} in\n{receiver.log[-3000:]}")


@pytest.mark.parametrize("profile", ["--profile-bcp195", "--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_dcmtk_stores_over_tls_with_every_profile_it_has(site, receiver, dcmtk, tmp_path, profile):
    options = site.options(site.us1, profile)
    echoscu("127.0.0.1", receiver.tls_port, "US1", "EMODE", *options)
    path = write(breast_still(study=profile), tmp_path / "image.dcm")
    assert storescu([path], "127.0.0.1", receiver.tls_port, "US1", "EMODE", *options).statuses == (0,)
    line = said(receiver, "association-requested", peer="US1", fingerprint=site.us1.fingerprint)
    assert line["address"] == "127.0.0.1"


def test_a_certificate_goes_with_an_ae_title(site, receiver, dcmtk):
    for title, pair in (("US1", site.us2), ("US2", site.us1), ("US1", None)):
        with pytest.raises(DcmtkFailed):
            echoscu("127.0.0.1", receiver.tls_port, title, "EMODE", *site.options(pair))
    said(
        receiver,
        "association-rejected",
        peer="US1",
        fingerprint=site.us2.fingerprint,
        status="certificate not listed for this AE title",
    )
    said(receiver, "association-rejected", peer="US2", fingerprint=site.us1.fingerprint)
    echoscu("127.0.0.1", receiver.tls_port, "US2", "EMODE", *site.options(site.us2))
    echoscu("127.0.0.1", receiver.tls_port, "ANYONE", "EMODE", *site.options(site.us1))


def test_plain_dicom_is_for_those_who_may_and_tls_for_all(site, receiver, dcmtk):
    echoscu("127.0.0.1", receiver.port, "ANYONE", "EMODE")
    for title in ("SECURE", "US1"):
        with pytest.raises(DcmtkFailed, match="Calling AE Title Not Recognized"):
            echoscu("127.0.0.1", receiver.port, title, "EMODE")
        said(receiver, "association-rejected", peer=title, status="plain DICOM not allowed for this AE title")
    echoscu("127.0.0.1", receiver.tls_port, "SECURE", "EMODE", *site.options(site.us1))


def test_who_is_refused_is_told_apart_and_honest_peers_are_served_on(site, receiver, dcmtk):
    expired = site.authority.issue("US1", dns=("us1.local",), days=-2)
    foreign = site.stranger.issue("US1", dns=("us1.local",))
    no_client = site.authority.issue("US1", server_only=True)
    for pair in (None, expired, foreign, no_client):
        with pytest.raises(DcmtkFailed):
            echoscu("127.0.0.1", receiver.tls_port, "US1", "EMODE", *site.options(pair))
    distrusting = (
        "+tls",
        str(site.us1.key),
        str(site.us1.certificate),
        "+cf",
        str(site.stranger.certificate),
    )
    with pytest.raises(DcmtkFailed):
        echoscu("127.0.0.1", receiver.tls_port, "US1", "EMODE", *distrusting)
    with pytest.raises(DcmtkFailed):  # plain DICOM on the port of TLS
        echoscu("127.0.0.1", receiver.tls_port, "ANYONE", "EMODE")
    with pytest.raises(DcmtkFailed):  # TLS on the port of plain DICOM
        echoscu("127.0.0.1", receiver.port, "US1", "EMODE", *site.options(site.us1))
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", receiver.tls_port)) as plain, pytest.raises(OSError):
        old.wrap_socket(plain)
    for code in (
        "tls-no-certificate",
        "tls-expired",
        "tls-unknown-ca",
        "tls-wrong-purpose",
        "tls-ours-unknown-ca",
        "plain-dicom-on-tls-port",
        "tls-on-plain-port",
        "tls-old-protocol",
    ):
        said(receiver, "connections-turned-away", code=code, address="127.0.0.1")
    echoscu("127.0.0.1", receiver.tls_port, "US1", "EMODE", *site.options(site.us1))


def test_connections_that_never_begin_tls_hold_up_nobody(site, receiver, dcmtk):
    with ExitStack() as silent:
        for hello in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"):
            for _ in range(3):
                held = silent.enter_context(socket.create_connection(("127.0.0.1", receiver.tls_port)))
                held.sendall(hello)
        started = time.monotonic()
        echoscu("127.0.0.1", receiver.tls_port, "US1", "EMODE", *site.options(site.us1))
        assert time.monotonic() - started < 100  # their time limit is 120 s


def test_certificates_are_renewed_and_trust_is_taken_away_while_it_runs(tmp_path, dcmtk):
    site = Site(tmp_path / "site")
    node = Receiver(tmp_path / "node", site.config(tmp_path / "node", port=None))
    try:
        context = ssl.create_default_context(cafile=str(site.authority.certificate))
        context.load_cert_chain(site.us1.certificate, site.us1.key)
        ae = AE("US1")
        ae.add_requested_context(Verification)
        ae.dimse_timeout = 20
        before = ae.associate("127.0.0.1", node.tls_port, ae_title="EMODE", tls_args=(context, "localhost"))
        assert before.is_established
        first = before.dul.socket.socket.getpeercert(binary_form=True)

        site.place.key.write_text("half a key")  # renewal goes wrong
        echoscu("127.0.0.1", node.tls_port, "US1", "EMODE", *site.options(site.us1))
        broken = said(node, "certificates-unusable", use="listen.tls", code="certificate-unusable")
        assert "node.key" in broken["problem"]
        status = node.node.emode("status").stdout
        assert "node.key" in status
        assert "keeps the certificates it had" in " ".join(status.split())

        put(site.authority.issue("node"), site.place.certificate, site.place.key)
        plain = socket.create_connection(("127.0.0.1", node.tls_port))
        with context.wrap_socket(plain, server_hostname="localhost") as secured:
            second = secured.getpeercert(binary_form=True)
        assert second != first
        assert before.send_c_echo().Status == 0  # an open association lives on

        shutil.copy(site.stranger.certificate, site.trust)  # the old authority is trusted no more
        node.process.send_signal(signal.SIGHUP)
        with pytest.raises(DcmtkFailed):
            echoscu("127.0.0.1", node.tls_port, "US1", "EMODE", *site.options(site.us1))
        said(node, "connections-turned-away", code="tls-unknown-ca")
        newcomer = site.stranger.issue("US1", dns=("us1.local",))
        echoscu("127.0.0.1", node.tls_port, "US1", "EMODE", *site.options(newcomer))
        assert before.send_c_echo().Status == 0
        before.release()
    finally:
        with suppress(Exception):
            node.stop()


def test_plain_dicom_on_the_network_is_said_at_every_start(tmp_path):
    listen = {"host": "0.0.0.0", "port": 0, "tls": None}
    peers = [{"ae_title": "US1", "addresses": ["127.0.0.1"]}]
    config = node_config(tmp_path, {"archive": ("PACS", 1)}, accept_unknown_peers=False, peers=peers)
    node = Receiver(tmp_path, config | {"listen": listen})
    said(node, "plain-dicom", level="warning", address="0.0.0.0", port=node.port)
    node.stop()
