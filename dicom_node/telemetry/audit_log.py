"""The audit trail on disk: hash-chained segments that several processes append to, and their proof.

`audit/000000000001.jsonl` and its successors hold the records, each segment named by its first record's
number. `audit/head` says how far the trail is durable; it is written only after the records are, so that a
trail that is shorter than its head was cut, and what stands behind the head is what a crash left.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.disk import sync
from dicom_node.telemetry.audit_chain import (
    START,
    DoesNotFollow,
    Link,
    NotARecord,
    Record,
    follow,
    seal,
    unseal,
)
from dicom_node.telemetry.audit_message import (
    Actor,
    AuditEvent,
    AuditKind,
    AuditSource,
    Outcome,
    Part,
    to_xml,
)

log = logging.getLogger(__name__)

SEGMENT_BYTES = 16 << 20
"""A segment is closed at about this size: some ten thousand records."""

_HEAD_BYTES = 192
"""Within one sector, so that a power cut leaves the old head or the new one."""

_SEGMENT_NAME = re.compile(r"0\d+(_\d+)?\.jsonl")
_HASH = re.compile(r"[0-9a-f]{64}")
_LONG_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Head:
    """How far the trail is durable."""

    link: Link
    segment: str
    size: int
    """Bytes of the segment up to and with the last durable record."""


def read_head(content: bytes) -> Head:
    """A head from its file. Raises ValueError for anything that no node wrote, whole as it may look."""
    try:
        facts = json.loads(content)
        number, digest, segment, size = facts["n"], facts["hash"], facts["segment"], facts["size"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError("is not a head") from error
    numbers = all(type(value) is int and value >= 0 for value in (number, size))
    texts = isinstance(digest, str) and isinstance(segment, str)
    if not numbers or not texts or not _HASH.fullmatch(digest) or not _SEGMENT_NAME.fullmatch(segment):
        raise ValueError("is not a head")
    return Head(Link(number, digest), segment, size)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying found."""

    records: int
    """Records that are proven, from the first."""
    first: int
    last: Link
    problem: str | None
    """The first bad place, for people, or None."""
    notes: tuple[str, ...] = ()
    """What is worth knowing and no tampering."""


class AuditLog:
    """Append and read. Threads and processes may share a folder; a kernel lock puts them in line."""

    def __init__(self, folder: Path, source: AuditSource, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Trail in `folder`, which is made when the first record is written."""
        self.folder = folder
        self._source = source
        self._segment_bytes = segment_bytes
        self._threads = threading.Lock()

    def append(self, events: Sequence[AuditEvent]) -> Link:
        """Write the events as the next records, durably; return where the chain stands.

        Raises OSError if they could not all be kept; none of them is kept then.
        """
        with self._locked() as now:
            tail, notices = self._tail(now)
            if tail.size >= self._segment_bytes:
                tail = _Tail(self.folder, tail.link, None, 0)
            at = now.isoformat(timespec="milliseconds")
            for event in (*notices, *events):
                tail.add(at, to_xml(event, self._source))
            tail.write()
            return tail.link

    def head(self) -> Head | None:
        """How far the trail is durable; None without a trail, or if the file that says so is unreadable."""
        try:
            return read_head((self.folder / "head").read_bytes())
        except (OSError, ValueError):
            return None

    def records(self, after: Head | None = None) -> Iterator[tuple[Record, Head]]:
        """Every record with the place behind it, oldest first, from behind `after` to the durable end.

        Leaves out silently what is no record: `verify` is for that.
        """
        end = self.head()
        if end is None:
            return
        for segment in self.segments():
            if after is not None and segment.name < after.segment:
                continue
            at = after.size if after is not None and segment.name == after.segment else 0
            with segment.open("rb") as file:
                file.seek(at)
                for line in file:
                    at += len(line)
                    try:
                        record = unseal(line)
                    except NotARecord:
                        continue
                    if record.number > end.link.number:
                        return
                    yield record, Head(record.link, segment.name, at)

    def holds(self, place: Head) -> bool:
        """Does the record that this place is behind stand there?

        Of a segment that was moved away, it is asked whether what is left follows it.
        """
        path = self.folder / place.segment
        if not path.exists():
            following = next(self.records(place), None)
            return following is not None and following[0].previous == place.link.hash
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < place.size:
                return False
            reach = _LONG_LINE
            while True:
                start = max(0, place.size - reach)
                file.seek(start)
                before, _, line = file.read(place.size - start)[:-1].rpartition(b"\n")
                if before or start == 0:
                    break
                reach *= 2
        try:
            return unseal(line + b"\n").link == place.link
        except NotARecord:
            return False

    def latest(self, count: int = 200) -> list[Record]:
        """About the last `count` records at most, oldest first; cheap however long the trail is."""
        found: list[Record] = []
        for segment in self.segments()[-1:]:
            with segment.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - count * 2048))
                for line in file:
                    try:
                        found.append(unseal(line))
                    except NotARecord:  # the first is mostly cut by the seek
                        continue
        return found[-count:]

    def segments(self) -> list[Path]:
        """The files of the trail, oldest first."""
        return sorted(self.folder.glob("0*.jsonl"))

    def verify(self, *, head: str | None = None, begin: str | None = None) -> Verdict:
        """Prove that nothing was changed, removed, inserted, put in another order, or cut off.

        head   hash of a record known from elsewhere (the log, a collector): it has to be in the trail.
        begin  hash of the last record of segments that were moved away; without it the trail has to
               begin with record 1.
        """
        with self._snapshot() as (durable, sizes):
            return _Proof(durable, sizes, head, begin).run()

    # -- writing, under the lock ------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[datetime]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _own_like(self.folder, self.folder.parent)
        with self._threads:
            fd = _opened(self.folder / "lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield datetime.now(UTC)
            finally:
                os.close(fd)

    def _tail(self, now: datetime) -> tuple[_Tail, list[AuditEvent]]:
        """Where to go on, and what has to be recorded about what was found there."""
        head, segments = self.head(), self.segments()
        if head is None and not any(path.stat().st_size for path in segments):
            # An empty segment is what a full disk left of the first record.
            return _Tail(self.folder, START, None, 0), []
        if head is not None and segments and _is_whole(segments[-1], head):
            return _Tail(self.folder, head.link, segments[-1], head.size), []
        return self._mended(head, segments, now)

    def _mended(
        self, head: Head | None, segments: list[Path], now: datetime
    ) -> tuple[_Tail, list[AuditEvent]]:
        """After a crash: keep every whole record, remove the rest of one. After tampering: touch nothing."""
        if head is None:
            notices = [_notice(AuditKind.CHAIN_BROKEN, now, "audit/head was missing or unreadable")]
            link, first, at = None, segments[-1], 0
        else:
            notices, link = [], head.link
            first, at = self.folder / head.segment, head.size
            if first not in segments or first.stat().st_size < head.size:
                words = f"the trail was shorter than record {head.link.number}"
                return _Tail(self.folder, head.link, None, 0), [_notice(AuditKind.CHAIN_BROKEN, now, words)]
        segment = first
        for segment in segments[segments.index(first) :]:
            start = at if segment == first else 0
            link, end, rest = _whole_records(segment, start, link)
            if not rest:
                continue
            if segment == segments[-1] and _is_torn(rest):
                os.truncate(segment, end)
                digest = hashlib.sha256(rest).hexdigest()[:16]
                words = f"a crash left {len(rest)} bytes of unfinished records (SHA-256 {digest}...); removed"
                notices.append(_notice(AuditKind.RECORD_TORN, now, words, Outcome.MINOR))
                return _Tail(self.folder, link or START, segment, end), notices
            words = f"{segment.name} holds what this node did not write, at byte {end}"
            notices.append(_notice(AuditKind.CHAIN_BROKEN, now, words))
            return _Tail(self.folder, link or START, None, 0), notices
        return _Tail(self.folder, link or START, segment, segment.stat().st_size), notices

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[Head | None, list[tuple[Path, int]]]]:
        """The head and the segments' sizes as no writer is at work; what follows may grow meanwhile."""
        lock = self.folder / "lock"
        fd = os.open(lock, os.O_RDONLY) if lock.exists() else None
        try:
            if fd is not None:
                fcntl.flock(fd, fcntl.LOCK_SH)
            found = self.head(), [(path, path.stat().st_size) for path in self.segments()]
        finally:
            if fd is not None:
                os.close(fd)
        yield found


class _Tail:
    """The end of the trail while records are added: collected, then written and synced at once."""

    def __init__(self, folder: Path, link: Link, segment: Path | None, size: int) -> None:
        self.link = link
        self.size = size
        self._folder = folder
        self._segment = segment
        self._lines: list[bytes] = []

    def add(self, at: str, message: str) -> None:
        line, self.link = seal(self.link, at, message)
        if self._segment is None:
            self._segment = _fresh(self._folder, self.link.number)
        self._lines.append(line)

    def write(self) -> None:
        if self._segment is None or not self._lines:
            return
        content = b"".join(self._lines)
        new = not self._segment.exists()
        # Whatever may fail comes before the records are durable: who is told so writes them again.
        self._make_room_for_head()
        fd = _opened(self._segment, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            try:
                if new:
                    sync(self._folder)
                _write_all(fd, content)
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, self.size)  # no half record for want of room
                raise
        finally:
            os.close(fd)
        self._set_head(self._segment.name, self.size + len(content))

    def _make_room_for_head(self) -> None:
        """The first head needs room on the disk; without one, the next writer would cry wolf."""
        fd = _opened(self._folder / "head", os.O_WRONLY | os.O_CREAT)
        try:
            if os.fstat(fd).st_size < _HEAD_BYTES:
                os.pwrite(fd, b" " * _HEAD_BYTES, 0)
        finally:
            os.close(fd)

    def _set_head(self, segment: str, size: int) -> None:
        facts = {"n": self.link.number, "hash": self.link.hash, "segment": segment, "size": size}
        text = json.dumps(facts, separators=(",", ":")).encode().ljust(_HEAD_BYTES - 1) + b"\n"
        # In place and not synced: an older head is as true as the newest, it only proves less.
        # So a failure is none of the records, which are durable: the next write sets it.
        try:
            fd = _opened(self._folder / "head", os.O_WRONLY | os.O_CREAT)
            try:
                os.pwrite(fd, text, 0)
            finally:
                os.close(fd)
        except OSError as error:
            code = error.strerror or type(error).__name__
            log.warning(
                "head of the audit trail not written", extra={"action": "audit-head-failed", "code": code}
            )


class _Proof:
    """One walk over the whole trail."""

    def __init__(
        self, durable: Head | None, sizes: list[tuple[Path, int]], head: str | None, begin: str | None
    ) -> None:
        self._durable = durable
        self._sizes = sizes
        self._wanted = head
        self._begin = begin
        self._link = START
        self._first = 0
        self._notes: list[str] = []
        self._seen_wanted = head is None
        self._durable_seen = durable is None

    def run(self) -> Verdict:
        for number, (segment, size) in enumerate(self._sizes):
            problem = self._segment(segment, size, newest=number == len(self._sizes) - 1)
            if problem is not None:
                return self._verdict(problem)
        return self._verdict(self._missing())

    def _verdict(self, problem: str | None) -> Verdict:
        count = self._link.number - self._first + 1 if self._first else 0
        return Verdict(count, self._first, self._link, problem, tuple(self._notes))

    def _segment(self, segment: Path, size: int, *, newest: bool) -> str | None:
        at = 0
        with segment.open("rb") as file:
            for line in _lines(file, size):
                try:
                    record = unseal(line)
                except NotARecord as error:
                    rest = line + b"".join(_lines(file, size - at - len(line)))
                    if newest and self._is_unfinished(at, rest):
                        self._notes.append(
                            f"{segment.name} ends with {len(rest)} bytes of a record that a crash left "
                            "unfinished; the next record written will say so"
                        )
                        return None
                    return f"{segment.name}, byte {at}: record {self._expected} {error}"
                problem = self._record(record)
                if problem is not None:
                    return f"{segment.name}, byte {at}: {problem}"
                at += len(line)
        return None

    @property
    def _expected(self) -> int:
        return self._link.number + 1

    def _record(self, record: Record) -> str | None:
        if not self._first and self._begin is not None:
            self._link = Link(record.number - 1, self._begin)
        try:
            link = follow(self._link, record)
        except DoesNotFollow as error:
            return str(error)
        named = self._durable.link if self._durable is not None else None
        if named is not None and named.number == link.number and named.hash != link.hash:
            return f"record {link.number} is not the one that audit/head names: the end was rewritten"
        self._durable_seen |= named == link
        self._link = link
        self._first = self._first or record.number
        self._seen_wanted |= record.hash == self._wanted
        return None

    def _is_unfinished(self, at: int, rest: bytes) -> bool:
        return self._durable_seen and _is_torn(rest) and (self._durable is None or at >= self._durable.size)

    def _missing(self) -> str | None:
        if self._durable is None and any(size for _, size in self._sizes):
            return "audit/head is missing or unreadable: whether the end was cut off cannot be told"
        if self._durable is not None and not self._durable_seen:
            last = self._durable.link.number
            gone = f"record {last}" if last == self._expected else f"records {self._expected} to {last}"
            return f"{gone} cut off: audit/head names record {last}"
        if not self._seen_wanted:
            return "no record has the hash given with --head: the trail was cut off before it, or rewritten"
        return None


def _whole_records(segment: Path, start: int, link: Link | None) -> tuple[Link | None, int, bytes]:
    """Follow the chain from byte `start`: where it stands then, the byte behind it, and what is left."""
    content = segment.read_bytes()[start:]
    at = 0
    for line in content.splitlines(keepends=True):
        try:
            record = unseal(line)
            if link is None:  # nothing is known of what came before: the first record has to be believed
                link = Link(record.number - 1, record.previous)
            link = follow(link, record)
        except (NotARecord, DoesNotFollow):
            break
        at += len(line)
    return link, start + at, content[at:]


def _is_whole(segment: Path, head: Head) -> bool:
    return segment.name == head.segment and segment.stat().st_size == head.size


def _is_torn(rest: bytes) -> bool:
    """What a crash can leave: a part of a record, or blocks that never reached the disk (NULs)."""
    return b"\n" not in rest or b"\0" in rest


def _lines(file: Iterable[bytes], size: int) -> Iterator[bytes]:
    for line in file:
        if size <= 0:
            return
        yield line[:size]
        size -= len(line)


def _fresh(folder: Path, number: int) -> Path:
    """A segment's file that is not there yet; a name is taken only where somebody tampered."""
    path, extra = folder / f"{number:012d}.jsonl", 0
    while path.exists() and path.stat().st_size:
        extra += 1
        path = folder / f"{number:012d}_{extra}.jsonl"
    return path


def _notice(kind: AuditKind, now: datetime, words: str, outcome: Outcome = Outcome.SERIOUS) -> AuditEvent:
    return AuditEvent(kind, now, (Actor("audit trail", Part.APPLICATION),), outcome=outcome, words=words)


def _opened(path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    if flags & os.O_CREAT and os.geteuid() == 0:
        _own_like(path, path.parent)
    return fd


def _own_like(path: Path, other: Path) -> None:
    """What root makes (an operator with sudo) has to stay writable for the account that runs the node."""
    if os.geteuid() == 0:
        owner = other.stat()
        if path.stat().st_uid != owner.st_uid:
            os.chown(path, owner.st_uid, owner.st_gid)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
