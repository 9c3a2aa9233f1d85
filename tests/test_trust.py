"""Keys, certificates and the identity that follows them, on real files and real handshakes."""

import logging
import os
import shutil
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node.core.errors import CertificateUnusable, NodeError, SecretExposed, SecretMissing
from dicom_node.network.tls import reason_of
from dicom_node.trust.certificates import CertificateName, Standing, read_certificates
from dicom_node.trust.contexts import Profile, TlsFiles, client_context, server_context
from dicom_node.trust.credentials import Credentials
from dicom_node.trust.files import Secret, check_private, read_secret
from dicom_node.trust.watch import PeerCertificates, expiries, peer_expiries, report
from peers.certificates import Authority, Pair, put


def now() -> datetime:
    return datetime.now(UTC)


def files_of(pair: Pair | None, trust: Path, password: Secret = Secret(), **more) -> TlsFiles:  # noqa: B008
    certificate, key = (pair.certificate, pair.key) if pair else (None, None)
    return TlsFiles("listen.tls", certificate, key, password, trust, **more)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca")


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"):
    """One handshake and a byte over a socket pair: (server's, client's) error or protocol."""
    ours, theirs = socket.socketpair()
    ends: dict[str, object] = {}

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as secured:
                ends["server"] = secured.version()
                secured.sendall(b"x")
        except OSError as error:
            ends["server"] = error
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=name) as secured:
            ends["client"] = secured.version()
            secured.recv(1)
    except OSError as error:
        ends["client"] = error
        theirs.close()
    thread.join()
    return ends["server"], ends["client"]


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620, 0o601])
def test_a_secret_that_others_can_open_is_refused_with_the_command_that_closes_it(tmp_path, mode):
    path = tmp_path / "node.key"
    path.write_text("secret\n")
    path.chmod(mode)
    with pytest.raises(SecretExposed, match=rf"mode {mode:04o}\); run: chmod 600 {path}"):
        check_private(path)
    path.chmod(0o600)
    assert read_secret(path) == "secret"


def test_a_secret_that_is_not_there_or_empty_is_named(tmp_path):
    path = tmp_path / "password"
    with pytest.raises(SecretMissing, match="password: No such file"):
        read_secret(path)
    path.touch(mode=0o600)
    with pytest.raises(SecretMissing, match="is empty"):
        read_secret(path)
    with pytest.raises(SecretMissing, match="is not a file"):
        check_private(tmp_path)


def test_a_secret_from_the_environment(monkeypatch):
    monkeypatch.delenv("EMODE_TEST_KEY", raising=False)
    with pytest.raises(SecretMissing, match="EMODE_TEST_KEY: is not set"):
        Secret(variable="EMODE_TEST_KEY").read()
    monkeypatch.setenv("EMODE_TEST_KEY", "word")
    assert Secret(variable="EMODE_TEST_KEY").read() == "word"
    assert Secret().read() is None


def test_what_systemd_hands_over_may_show_the_group_bits_of_its_access_list(tmp_path, monkeypatch):
    path = tmp_path / "node.key"
    path.write_text("secret")
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    check_private(path)
    path.chmod(0o444)
    with pytest.raises(SecretExposed):
        check_private(path)


# -- identities that cannot be used -------------------------------------------------------------


def test_each_way_in_which_files_cannot_be_used_has_its_own_words(authority, tmp_path):
    good, other = authority.issue("node"), authority.issue("other")
    expired, early = authority.issue("old", days=-2), authority.issue("new", began_days_ago=-3)
    locked = authority.issue("locked", password="right")
    word = tmp_path / "word"
    word.write_text("wrong\n")
    word.chmod(0o600)
    empty, der = tmp_path / "empty.pem", tmp_path / "ca.cer"
    empty.touch()
    der.write_bytes(ssl.PEM_cert_to_DER_cert(authority.certificate.read_text()))
    open_key = tmp_path / "open.key"
    shutil.copy(good.key, open_key)
    open_key.chmod(0o644)
    trust = authority.certificate
    cases = [
        (files_of(good, empty), "empty.pem: is empty; put certificates"),
        (files_of(good, der), "ca.cer: holds no certificate in PEM form; convert it with: openssl x509"),
        (files_of(good, tmp_path / "none.pem"), "none.pem: No such file"),
        (files_of(Pair(good.certificate, other.key), trust), "does not belong to the first certificate of"),
        (files_of(Pair(good.certificate, good.certificate), trust), "is no private key in PEM form"),
        (files_of(Pair(good.certificate, open_key), trust), "chmod 600"),
        (files_of(expired, trust), "EXPIRED on "),
        (files_of(early, trust), "not valid yet; check the clocks"),
        (files_of(locked, trust), "is encrypted; set key_password_file"),
        (files_of(locked, trust, Secret(file=word)), "the password is wrong"),
        (files_of(good, trust, Secret(file=word)), "takes no password"),
    ]
    for files, words in cases:
        with pytest.raises(NodeError) as caught:
            server_context(files, now())
        assert words in str(caught.value)
    word.write_text("right\n")
    server_context(files_of(locked, trust, Secret(file=word)), now())


# -- handshakes -------------------------------------------------------------------------------


def reasons(authority, client: ssl.SSLContext, **server) -> tuple[str, str]:
    context = server_context(files_of(authority.issue("node"), authority.certificate), now(), **server)
    ends = shake(context, client)
    return tuple(reason_of(end) if isinstance(end, OSError) else str(end) for end in ends)


def test_honest_clients_get_the_newest_protocol_and_may_use_the_one_before(authority):
    client = client_context(files_of(authority.issue("us1"), authority.certificate), now())
    assert reasons(authority, client) == ("TLSv1.3", "TLSv1.3")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert reasons(authority, client) == ("TLSv1.2", "TLSv1.2")
    modified = files_of(authority.issue("us1"), authority.certificate, profile=Profile.MODIFIED)
    suites = [each["name"] for each in client_context(modified, now()).get_ciphers()]
    assert all("GCM" in name for name in suites if not name.startswith("TLS_"))


def test_a_server_tells_why_it_refused(authority, tmp_path):
    trust, stranger = authority.certificate, Authority(tmp_path / "other", "Other CA")
    assert reasons(authority, client_context(files_of(None, trust), now())) == (
        "no-certificate",
        "ours-missing",
    )
    foreign = client_context(files_of(stranger.issue("us1"), trust), now())
    assert reasons(authority, foreign) == ("unknown-ca", "ours-unknown-ca")
    late = authority.issue("us1", days=-2)
    client = client_context(files_of(None, trust), now())
    client.load_cert_chain(late.certificate, late.key)
    assert reasons(authority, client) == ("expired", "ours-expired")
    no_client = client_context(files_of(authority.issue("web", server_only=True), trust), now())
    assert reasons(authority, no_client) == ("wrong-purpose", "ours-distrusted")
    old = client_context(files_of(authority.issue("us1"), trust), now())
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    assert reasons(authority, old) == ("old-protocol", "old-protocol")


def test_a_certificate_may_be_optional_but_never_a_stranger_s(authority, tmp_path):
    trust, stranger = authority.certificate, Authority(tmp_path / "other", "Other CA")
    nameless = client_context(files_of(None, trust), now())
    assert reasons(authority, nameless, require_certificate=False) == ("TLSv1.3", "TLSv1.3")
    foreign = client_context(files_of(stranger.issue("us1"), trust), now())
    assert reasons(authority, foreign, require_certificate=False)[0] == "unknown-ca"


def test_a_client_tells_why_it_did_not_trust(authority, tmp_path):
    server = server_context(files_of(authority.issue("node"), authority.certificate), now())
    other = Authority(tmp_path / "other", "Other CA")
    distrusting = client_context(files_of(None, other.certificate), now())
    assert reason_of(shake(server, distrusting)[1]) == "unknown-ca"
    client = client_context(files_of(authority.issue("us1"), authority.certificate), now())
    assert reason_of(shake(server, client, "elsewhere")[1]) == "wrong-host"
    lax = client_context(files_of(authority.issue("us1"), authority.certificate), now(), check_host=False)
    assert shake(server, lax, "elsewhere") == ("TLSv1.3", "TLSv1.3")


def test_a_single_certificate_can_be_trusted_without_its_authority(authority):
    node = authority.issue("node")
    server = server_context(files_of(node, authority.certificate), now(), require_certificate=False)
    assert shake(server, client_context(files_of(None, node.certificate), now()))[1] == "TLSv1.3"


# -- identities that follow their files -----------------------------------------------------------


def test_changed_files_give_a_fresh_context_and_broken_ones_change_nothing(authority, tmp_path, caplog):
    caplog.set_level(logging.INFO, "dicom_node")
    place = Pair(tmp_path / "node.pem", tmp_path / "node.key")
    trust = tmp_path / "trust.pem"
    shutil.copy(authority.certificate, trust)
    put(authority.issue("node"), place.certificate, place.key)
    credentials = Credentials(files_of(place, trust), lambda files: server_context(files, now()))
    first = credentials.context()
    assert credentials.context() is first

    place.key.write_text("nonsense")
    assert credentials.context() is first
    assert isinstance(credentials.trouble, CertificateUnusable)
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert line.action == "certificates-unusable"
    assert str(place.key) in line.problem
    credentials.context()
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1

    put(authority.issue("node"), place.certificate, place.key)
    second = credentials.context()
    assert second is not first
    assert credentials.trouble is None

    client = client_context(files_of(authority.issue("us1"), authority.certificate), now())
    assert shake(second, client)[0] == "TLSv1.3"
    other = Authority(tmp_path / "other", "Other CA")
    shutil.copy(other.certificate, trust)  # the old authority is trusted no more
    assert reason_of(shake(credentials.context(), client)[0]) == "unknown-ca"
    credentials.refresh(force=True)
    assert credentials.context() is not second


def test_an_identity_that_was_never_good_raises_until_it_is(authority, tmp_path, monkeypatch):
    place = Pair(tmp_path / "node.pem", tmp_path / "node.key")
    credentials = Credentials(
        files_of(place, authority.certificate), lambda files: server_context(files, now())
    )
    for _ in range(2):
        with pytest.raises(CertificateUnusable, match=r"node\.pem: No such file"):
            credentials.context()
    put(authority.issue("node"), place.certificate, place.key)
    assert credentials.context()


# -- names and ends ---------------------------------------------------------------------------


def test_a_certificate_is_known_by_fingerprint_or_by_a_name_the_authority_vouches_for(authority):
    pair = authority.issue("US1", dns=("us1.local", "Scanner.Local"))
    (certificate,) = read_certificates(pair.certificate)
    yes = (
        f"sha256:{pair.fingerprint.upper()}",
        pair.fingerprint,
        "dns:US1.local",
        "dns:scanner.local",
        "cn:US1",
    )
    no = ("0" * 64, "dns:us2.local", "dns:*.local", "cn:us1", "cn:US")
    assert all(CertificateName.parse(text).names(certificate) for text in yes)
    assert not any(CertificateName.parse(text).names(certificate) for text in no)
    for text in ("", "US1", "dns:", "sha256:12"):
        with pytest.raises(ValueError, match=r"fingerprint|follow"):
            CertificateName.parse(text)


def test_every_end_is_told_thirty_days_before(authority, tmp_path, caplog):
    short = Authority(tmp_path / "short", "Short CA", days=12)
    (certificate,) = read_certificates(authority.issue("node", days=90).certificate)
    pair = authority.issue("node", days=90)
    found = expiries([files_of(pair, short.certificate)], now(), 30)
    assert [(each.path, each.days_left, each.standing) for each in found] == [
        (short.certificate, 11, Standing.ENDS_SOON),
        (pair.certificate, 89, Standing.GOOD),
    ]
    later = now() + timedelta(days=20)
    report(expiries([files_of(pair, short.certificate)], later, 30))
    (line,) = caplog.records
    assert (line.levelname, line.action, line.days, line.path) == (
        "ERROR",
        "certificate-expired",
        -9,
        str(short.certificate),
    )
    assert "EXPIRED on" in expiries([files_of(pair, short.certificate)], later, 30)[0].words

    noted = tmp_path / "peer-certificates.json"
    PeerCertificates(noted, lambda: later, 70).see("US1", certificate)
    assert caplog.records[-1].action == "certificate-ends-soon"
    (seen,) = peer_expiries(noted, later, 70)
    assert (seen.use, seen.days_left, seen.standing) == ("peer US1", 69, Standing.ENDS_SOON)
    # Another process knows of others, and forgets nobody.
    one, other = (PeerCertificates(noted, lambda: later, 70) for _ in range(2))
    one.see("US2", certificate)
    other.see("US3", certificate)
    assert {seen.use for seen in peer_expiries(noted, later, 70)} == {"peer US1", "peer US2", "peer US3"}
    noted.write_text("{nonsense")
    assert peer_expiries(noted, later, 70) == []


def test_an_owner_who_is_not_us_is_refused(authority, tmp_path):
    """As another user in a process of its own; root may look at every file."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    path = tmp_path / "node.key"
    path.write_text("secret")
    path.chmod(0o600)
    os.chown(path, 12345, 12345)
    check_private(path)
    os.chown(path, 0, 0)
    path.chmod(0o600)
    pid = os.fork()
    if pid == 0:
        os.seteuid(65534)
        try:
            check_private(path)
        except (SecretExposed, SecretMissing):
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
