"""The chained log: every change, removal, insertion, exchange and cut is found; a crash is none."""

import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.telemetry import audit_log
from dicom_node.telemetry.audit_chain import unseal
from dicom_node.telemetry.audit_log import AuditLog
from dicom_node.telemetry.audit_message import (
    Actor,
    AuditEvent,
    AuditKind,
    AuditSource,
    Outcome,
    Part,
    from_xml,
)
from dicom_node.telemetry.audit_trail import DirectTrail, QueuedTrail

SOURCE = AuditSource("node-1")
AT = datetime(2026, 1, 31, tzinfo=UTC)


def event(words="w", kind=AuditKind.ASSOCIATION_ACCEPTED, at=AT, outcome=Outcome.SUCCESS):
    return AuditEvent(kind, at, (Actor("PACS", Part.PEER, True, "10.0.0.1"),), (), outcome, words)


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit", SOURCE)


def filled(log, count=6):
    for number in range(count):
        log.append([event(f"number {number}")])
    return log


def words(log):
    return [from_xml(record.message).words for record, _ in log.records()]


def lines(log):
    return log.segments()[0].read_bytes().splitlines(keepends=True)


def rewrite(log, changed):
    log.segments()[0].write_bytes(b"".join(changed))


def test_what_was_written_is_intact_and_reads_back_in_order(log):
    assert filled(log).verify().problem is None
    assert words(log) == [f"number {n}" for n in range(6)]
    assert (log.verify().first, log.verify().last.number, log.verify().records) == (1, 6, 6)


def changed(found, at):
    found[at] = found[at].replace(b"number", b"Number")


def changed_and_sealed_anew(found, at):
    """By somebody who knows how the hash is made, and changes one record."""
    from dicom_node.telemetry.audit_chain import Link, seal

    record = unseal(found[at])
    found[at] = seal(
        Link(record.number - 1, record.previous), record.at, record.message.replace("number", "x")
    )[0]


def removed(found, at):
    del found[at]


def doubled(found, at):
    found.insert(at, found[at])


def exchanged(found, at):
    found[at], found[at - 1] = found[at - 1], found[at]


def inserted(found, at):
    found.insert(at, b'{"n":3,"at":"","prev":"","message":""}\n')


@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("attack", [changed, changed_and_sealed_anew, removed, doubled, exchanged, inserted])
def test_every_attack_is_found_and_named(log, attack, at):
    found = lines(filled(log))
    attack(found, at)
    rewrite(log, found)
    verdict = log.verify()
    assert verdict.problem is not None
    # The chain is intact before the place, and the first bad record is the one after.
    touched = at - 1 if attack is exchanged else at + 1 if attack is doubled else at
    expected = at + 1 if attack is changed_and_sealed_anew and at < 5 else touched
    assert verdict.last.number == expected
    assert f"{expected + 1}" in verdict.problem


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_a_cut_end_is_found_by_the_head_file(log, kept):
    found = lines(filled(log))
    rewrite(log, found[:kept])
    assert "cut off: audit/head names record 6" in log.verify().problem


def test_a_cut_end_with_its_head_rewritten_is_found_by_a_hash_known_elsewhere(log, tmp_path):
    known = filled(log).verify().last.hash
    assert log.verify(head=known).problem is None
    assert log.verify(head=unseal(lines(log)[2]).hash).problem is None
    shorter = filled(AuditLog(tmp_path / "other", SOURCE), 3)
    assert shorter.verify().problem is None
    assert "cut off before it, or rewritten" in shorter.verify(head=known).problem


def test_a_removed_head_or_segment_is_found(log):
    filled(log)
    (log.folder / "head").unlink()
    assert "audit/head is missing" in log.verify().problem
    log.append([event("after")])
    assert "audit/head was missing" in words(log)[-2]  # recorded by the next writer, for good
    log.segments()[0].unlink()
    assert log.verify().problem is not None


def test_segments_are_chained_and_older_ones_can_be_moved_away(tmp_path):
    log = filled(AuditLog(tmp_path / "audit", SOURCE, segment_bytes=1), 4)
    assert [path.name for path in log.segments()] == [f"{n:012d}.jsonl" for n in (1, 2, 3, 4)]
    assert log.verify().problem is None
    assert words(log) == [f"number {n}" for n in range(4)]
    first, second = log.segments()[:2]
    anchor = unseal(second.read_bytes()).hash
    second.unlink()
    assert "record 2 removed" in log.verify().problem
    first.unlink()
    assert "records 1 to 2 removed" in log.verify().problem
    assert log.verify(begin=anchor).problem is None
    assert log.verify(begin="0" * 64).problem is not None


@pytest.mark.parametrize("torn", [b'{"n":7,"at":"2026', b"\0" * 4096, b'{"n":7,\0\0\n\0\0'])
def test_what_a_crash_leaves_is_closed_and_recorded_not_taken_for_tampering(log, torn):
    with filled(log).segments()[0].open("ab") as file:
        file.write(torn)
    verdict = log.verify()
    assert verdict.problem is None
    assert "a crash left" in verdict.notes[0]
    log.append([event("after")])
    assert log.verify().problem is None
    assert log.verify().notes == ()
    notice, last = words(log)[-2:]
    assert notice.startswith(f"a crash left {len(torn)} bytes of unfinished records")
    assert last == "after"


def test_records_behind_an_older_head_are_kept(log):
    filled(log, 2)
    head = (log.folder / "head").read_bytes()
    filled(log, 3)
    (log.folder / "head").write_bytes(head)  # a power cut before the head reached the disk
    log.append([event("after")])
    assert log.verify().problem is None
    assert words(log)[-1] == "after"
    assert len(words(log)) == 6


def test_after_tampering_the_node_goes_on_and_the_evidence_stays(log):
    filled(log)
    with log.segments()[0].open("ab") as file:
        file.write(b"not of this node\n")
    log.append([event("after")])
    assert "record 7 is not a record" in log.verify().problem
    assert b"not of this node" in log.segments()[0].read_bytes()
    assert (
        from_xml(unseal(log.segments()[1].read_bytes().splitlines(keepends=True)[0]).message).kind
        == "chain-broken"
    )


def test_a_half_line_that_was_durable_before_is_a_cut_not_a_crash(log):
    filled(log)
    segment = log.segments()[0]
    os.truncate(segment, segment.stat().st_size - 10)
    assert log.verify().problem is not None


def _write(folder, name, count):
    log = AuditLog(folder, SOURCE, segment_bytes=20_000)
    for number in range(count):
        log.append([event(f"{name} {number}")])


def test_processes_and_threads_write_one_chain(log):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(log.folder, f"p{n}", 25)) for n in range(3)]
    writers += [threading.Thread(target=_write, args=(log.folder, f"t{n}", 25)) for n in range(2)]
    for writer in sorted(writers, key=lambda w: isinstance(w, threading.Thread)):
        writer.start()
    for writer in writers:
        writer.join()
    assert log.verify().problem is None
    found = words(log)
    assert len(found) == 125
    for name in ("p0", "p1", "p2", "t0", "t1"):
        assert [w for w in found if w.startswith(name)] == [f"{name} {n}" for n in range(25)]


def test_a_writer_killed_at_any_instant_leaves_a_trail_that_verifies(log):
    context = multiprocessing.get_context("fork")
    for turn in range(15):
        victim = context.Process(target=_write, args=(log.folder, f"v{turn}", 10_000))
        victim.start()
        time.sleep(0.01 * turn)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        log.append([event(f"turn {turn}")])
        assert log.verify().problem is None
    assert len(words(log)) > 15


def _write_limited(folder, bytes_, done):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))
    trail = QueuedTrail(AuditLog(folder, SOURCE), most_waiting=20)
    for number in range(60):  # 20 wait in memory, the rest is lost and counted
        trail.record(event(f"number {number}"))
    time.sleep(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    time.sleep(3)
    trail.close()
    done.set()


def test_a_full_disk_stops_nothing_and_the_gap_is_recorded(log):
    filled(log, 2)
    before = log.segments()[0].stat().st_size
    context = multiprocessing.get_context("fork")
    done = context.Event()
    writer = context.Process(target=_write_limited, args=(log.folder, before + 100, done))
    writer.start()
    writer.join(60)
    assert done.is_set()
    assert log.verify().problem is None
    found = words(log)
    kept = [w for w in found if w.startswith("number")][2:]
    (gap,) = [w for w in found if "are missing" in w]
    assert gap.startswith(f"{60 - len(kept)} record(s)")
    assert kept == [f"number {n}" for n in range(len(kept))]


def test_a_command_goes_on_without_a_disk(log, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit_log, "_write_all", full)
    DirectTrail(log).record(event())
    assert caplog.records[-1].action == "audit-failed"


def test_queued_events_are_written_in_order_and_alerts_at_once(log):
    trail = QueuedTrail(log)
    for number in range(300):
        trail.record(event(f"number {number}"))
    trail.record(event("alert", outcome=Outcome.SERIOUS))
    deadline = time.monotonic() + 30
    while len(words(log)) < 301 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert words(log) == [*(f"number {n}" for n in range(300)), "alert"]
    trail.record(event("last"))
    trail.close()
    assert words(log)[-1] == "last"
    assert log.verify().problem is None


def test_watching_a_screen_is_one_access(log):
    trail = DirectTrail(log)
    for minute in (0, 1, 5, 11, 12):
        trail.record_once(event(at=AT + timedelta(minutes=minute)), timedelta(minutes=10))
    assert len(words(log)) == 2


def test_files_are_for_the_nodes_account_alone(log):
    old = os.umask(0)
    try:
        filled(log)
    finally:
        os.umask(old)
    assert log.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in log.folder.iterdir()} == {0o600}


def test_a_head_that_cannot_be_written_doubles_no_record(log, monkeypatch, caplog):
    filled(log, 2)

    def broken(*arguments):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(audit_log.os, "pwrite", broken)
        log.append([event("durable")])
        assert caplog.records[-1].action == "audit-head-failed"
    log.append([event("after")])
    assert words(log) == ["number 0", "number 1", "durable", "after"]
    assert log.verify().problem is None


def test_without_room_for_the_first_head_nothing_is_kept_and_nothing_is_broken(log, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audit_log.os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            log.append([event("lost")])
    filled(log, 1)
    assert words(log) == ["number 0"]


@pytest.mark.parametrize(("name", "value"), [("n", "6"), ("hash", 7), ("segment", None), ("size", "9")])
def test_a_head_of_other_types_is_a_finding_and_stops_no_writer(log, name, value):
    filled(log)
    path = log.folder / "head"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    assert "missing or unreadable" in log.verify().problem
    log.append([event("after")])
    assert words(log)[-1] == "after"
