"""Forwarding to a real rsyslogd over TLS: everything, in order, whatever happens to the collector."""

import re
import threading
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import pytest

from dicom_node.network.collector import Collector
from dicom_node.telemetry import audit_syslog
from dicom_node.telemetry.audit_log import AuditLog
from dicom_node.telemetry.audit_message import Actor, AuditEvent, AuditKind, AuditSource, Outcome, Part
from dicom_node.telemetry.audit_syslog import Cursor, Forwarder, framed, syslog_message
from dicom_node.trust.contexts import TlsFiles, client_context
from dicom_node.trust.credentials import Credentials
from dicom_node.trust.files import Secret
from peers.certificates import Authority
from peers.rsyslog import Rsyslog, find_rsyslogd

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
NUMBER = re.compile(r'\[emode@32473 record="(\d+)" hash="[0-9a-f]{64}"\]')


def record(log, count=1, outcome=Outcome.SUCCESS):
    for _ in range(count):
        actor = Actor("PACS", Part.PEER, True, "10.0.0.1")
        log.append([AuditEvent(AuditKind.ASSOCIATION_ACCEPTED, AT, (actor,), outcome=outcome)])


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit", AuditSource("node-1"))


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca")


@pytest.fixture
def collector(tmp_path, authority):
    if find_rsyslogd() is None:
        pytest.skip("rsyslogd with its TLS module is not installed: run deploy/install-test-peers.sh")
    pair = authority.issue("collector")
    peer = Rsyslog(
        tmp_path / "rsyslog",
        ca=authority.certificate,
        certificate=pair.certificate,
        key=pair.key,
        name="node",
    )
    peer.start()
    yield peer
    peer.kill()


@pytest.fixture
def forwarder(log, authority, collector):
    return make_forwarder(log, authority, collector)


def make_forwarder(log, authority, collector, *, name="node", host="127.0.0.1"):
    pair = authority.issue(name, dns=(name,), addresses=())
    files = TlsFiles("audit.syslog", pair.certificate, pair.key, Secret(), authority.certificate)
    credentials = Credentials(files, lambda files: client_context(files, datetime.now(UTC)))
    to = Collector(host, collector.port, host, credentials, 10)
    return Forwarder(log, Cursor(log.folder / "syslog"), to.connect, host="node-1", first_pause_s=0.2)


def numbers(collector):
    return [int(NUMBER.search(line)[1]) for line in collector.lines()]


def wait(there, seconds=60):
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_message_is_rfc_5424_and_its_frame_rfc_5425(log):
    record(log, outcome=Outcome.SERIOUS)
    ((written, _),) = log.records()
    message = syslog_message(written, host="node 1")
    head, _, xml = message.partition(b"\xef\xbb\xbf")
    # Facility 10, warning; version; time; host without a space; application; no process; PS3.15 A.6.
    assert re.fullmatch(
        rb"<84>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z node1 emode - DICOM\+RFC3881 "
        rb'\[emode@32473 record="1" hash="[0-9a-f]{64}"\] ',
        head,
    )
    assert ET.fromstring(xml).tag == "AuditMessage"
    assert framed(b"abc") == b"3 abc"


def test_a_collector_gets_everything_once_and_in_order(log, forwarder, collector):
    record(log, 450)  # more than two batches
    while forwarder.step():
        pass
    wait(lambda: len(collector.lines()) >= 450)
    assert numbers(collector) == list(range(1, 451))
    assert collector.lines()[0].startswith("85 node-1 emode DICOM+RFC3881 [emode@32473")
    assert "<AuditMessage>" in collector.lines()[0]
    assert forwarder.backlog().records == 0


def test_what_a_collector_misses_is_sent_when_it_is_back(log, forwarder, collector, caplog):
    stop = threading.Event()
    thread = threading.Thread(target=forwarder.run, args=(stop,))
    record(log, 5)
    thread.start()
    try:
        wait(lambda: len(collector.lines()) == 5)
        collector.kill()
        record(log, 30)
        wait(lambda: any(r.action == "audit-not-forwarded" for r in caplog.records if "action" in vars(r)))
        assert forwarder.backlog().records == 30
        collector.start()
        wait(lambda: forwarder.backlog().records == 0)
    finally:
        stop.set()
        thread.join()
    wait(lambda: len(collector.lines()) >= 35)
    assert numbers(collector) == list(range(1, 36))


def test_a_collector_killed_in_the_middle_costs_repetitions_and_no_record(log, forwarder, collector):
    record(log, 600)
    stop = threading.Event()
    thread = threading.Thread(target=forwarder.run, args=(stop,))
    thread.start()
    try:
        wait(lambda: collector.lines())
        for _ in range(2):
            collector.kill()
            collector.start()
            time.sleep(0.3)
        wait(lambda: forwarder.backlog().records == 0)
    finally:
        stop.set()
        thread.join()
    # rsyslogd loses what it has read and not written when it is killed; what it had not read comes again.
    wait(lambda: numbers(collector) and numbers(collector)[-1] == 600)
    first_seen = list(dict.fromkeys(numbers(collector)))
    assert first_seen == sorted(first_seen)


def test_a_node_that_the_collector_does_not_admit_loses_nothing(log, authority, collector):
    """TLS 1.3 lets a client believe it is in before the server has judged its certificate."""
    record(log, 3)
    stranger = make_forwarder(log, authority, collector, name="stranger")
    with pytest.raises(OSError, match=r".*"):
        stranger.step()
    assert stranger.backlog().records == 3
    assert collector.lines() == []


def test_a_collector_with_a_certificate_for_somebody_else_gets_nothing(log, authority, collector, tmp_path):
    record(log, 3)
    with pytest.raises(OSError, match=r"[Vv]erif|match|certificate"):
        make_forwarder(log, Authority(tmp_path / "other"), collector).step()
    assert collector.lines() == []


class Closed:
    """A collector that takes everything; what it was sent."""

    def __init__(self):
        self.numbers = []

    def sendall(self, data):
        self.numbers.append(int(NUMBER.search(data.decode())[1]))

    def close(self):
        pass


@pytest.fixture
def taken(log, monkeypatch):
    monkeypatch.setattr(audit_syslog, "_end_in_order", lambda connection: None)
    peer = Closed()
    return peer, Forwarder(log, Cursor(log.folder / "syslog"), lambda: peer, host="node-1")


def lost(caplog):
    return [r for r in caplog.records if getattr(r, "action", "") == "audit-cursor-lost"]


@pytest.mark.parametrize("since", [0, 1, 4, 9])
def test_after_an_older_trail_is_restored_forwarding_says_so_and_goes_on(log, taken, caplog, since):
    peer, forwarder = taken
    record(log, 2)
    kept = {path.name: path.read_bytes() for path in log.folder.iterdir()}
    record(log, 4)
    assert forwarder.step() == 6
    for name, content in kept.items():
        (log.folder / name).write_bytes(content)
    record(log, since, Outcome.MINOR)
    assert forwarder.backlog().records == 2 + since
    peer.numbers.clear()
    while forwarder.step():
        pass
    assert peer.numbers == list(range(1, 3 + since))
    assert len(lost(caplog)) == 1
    record(log)
    assert forwarder.step() == 1


def test_what_cannot_be_read_is_said_once_and_what_comes_after_is_sent(log, taken, caplog):
    peer, forwarder = taken
    record(log, 2)
    forwarder.step()
    record(log)
    segment = log.segments()[0]
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:2], lines[2].replace(b"PACS", b"pacs")]))
    assert [forwarder.step(), forwarder.step()] == [0, 0]
    assert len(lost(caplog)) == 1
    record(log)
    assert forwarder.step() == 1
    assert peer.numbers == [1, 2, 4]


def test_a_segment_moved_away_when_it_was_sent_is_no_loss(log, taken, caplog):
    peer, forwarder = taken
    small = AuditLog(log.folder, AuditSource("node-1"), segment_bytes=1)
    record(small, 2)
    forwarder.step()
    record(small)
    small.segments()[0].unlink()
    small.segments()[0].unlink()
    assert forwarder.step() == 1
    assert peer.numbers == [1, 2, 3]
    assert lost(caplog) == []
