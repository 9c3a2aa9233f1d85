"""The audit trail at a collector: RFC 5424 messages, RFC 5425 framing, from the chain with a durable cursor.

Syslog has no acknowledgement. What counts here is the collector's end of the TLS connection: it is closed by
us after each batch, and a collector that then ends its side in order has read everything before that. Only
then the cursor moves. A connection that breaks earlier costs a repetition, never a record.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from dicom_node.telemetry.audit_chain import GENESIS, START, Record
from dicom_node.telemetry.audit_log import AuditLog, Head, read_head
from dicom_node.telemetry.audit_message import Outcome, from_xml

log = logging.getLogger(__name__)

_FACILITY = 10  # RFC 5424 6.2.1: security and authorization messages; PS3.15 A.6 asks for it
_NOTICE, _WARNING = 5, 4
_BATCH = 200
_LOOK_EVERY_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
_BEHIND_AFTER = timedelta(minutes=15)
_TELL_HEAD_EVERY_S = 86400.0


def syslog_message(record: Record, *, host: str, process: str = "emode") -> bytes:
    """One record as RFC 5424 wants it; number and hash are in the structured data.

    A collector can so tell a repetition, and holds an anchor for `emode audit verify --head`.
    """
    try:
        outcome = from_xml(record.message).outcome
    except ValueError:
        outcome = Outcome.MAJOR
    priority = _FACILITY * 8 + (_NOTICE if outcome is Outcome.SUCCESS else _WARNING)
    # 32473 is the enterprise number for examples (RFC 5612), until the product has one of its own.
    data = f'[emode@32473 record="{record.number}" hash="{record.hash}"]'
    name = "".join(c for c in host if c.isascii() and c.isprintable() and c != " ")[:255] or "-"
    at = record.at.replace("+00:00", "Z")
    # PS3.15 A.6: the MSGID that tells an audit message of this schema; the BOM says UTF-8 (RFC 5424 6.4).
    head = f"<{priority}>1 {at} {name} {process} - DICOM+RFC3881 {data} "
    return head.encode("ascii") + b"\xef\xbb\xbf" + record.message.encode()


def framed(message: bytes) -> bytes:
    """RFC 5425 4.3: octet counting."""
    return f"{len(message)} ".encode("ascii") + message


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far a collector is behind."""

    records: int
    since: datetime | None
    """When the oldest record that it does not have was written."""


class Cursor:
    """How far the collector has the trail; a small file beside it."""

    def __init__(self, path: Path) -> None:
        """Cursor in this file."""
        self._path = path

    def load(self) -> Head | None:
        """The place behind the last record that the collector has; None before the first."""
        try:
            return read_head(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            log.warning("cursor unreadable; the trail is sent again", extra={"action": "audit-cursor-lost"})
            return None

    def store(self, head: Head) -> None:
        """Move; survives a power cut."""
        aside = self._path.with_suffix(".new")
        facts = {"n": head.link.number, "hash": head.link.hash, "segment": head.segment, "size": head.size}
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, json.dumps(facts).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        aside.replace(self._path)


class Forwarder:
    """Sends what the trail has and the collector does not, in order, for as long as it takes."""

    def __init__(
        self,
        audit: AuditLog,
        cursor: Cursor,
        connect: Callable[[], ssl.SSLSocket],
        *,
        host: str,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        """Prepare.

        connect  opens a TLS connection with time limits, or raises OSError (ssl.SSLError is one).
        host     how this node names itself.
        """
        self._audit = audit
        self._cursor = cursor
        self._connect = connect
        self._host = host
        self._first_pause_s = first_pause_s
        self._told_behind = False
        self._told_lost: Head | None = None
        """The place of which it was said that the trail does not go on from there."""

    def run(self, stop: threading.Event) -> None:
        """Forward until told to stop."""
        pause_s = _LOOK_EVERY_S
        failing = False
        while not stop.wait(pause_s):
            try:
                sent = self.step()
                while sent and not stop.is_set():
                    sent = self.step()
            except OSError as error:
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2) if failing else self._first_pause_s
                self._report(error, failing)
                failing = True
                continue
            if failing:
                log.info("audit collector has everything again", extra={"action": "audit-forwarding"})
            failing, pause_s, self._told_behind = False, _LOOK_EVERY_S, False

    def step(self) -> int:
        """Send one batch; return how many records the collector has for sure now. Raises OSError."""
        after = self._cursor.load()
        durable = self._audit.head()
        if durable is None or (after is not None and after.link == durable.link):
            return 0
        place = self._going_on_from(after, durable)
        batch = list(islice(self._audit.records(place), _BATCH))
        if after is not None and (place != after or not batch):
            self._tell_lost(after)
        if not batch:
            # The chain goes no further here: verify says why; what comes after is sent.
            return 0
        connection = self._connect()
        try:
            for record, _ in batch:
                connection.sendall(framed(syslog_message(record, host=self._host)))
            _end_in_order(connection)
        finally:
            connection.close()
        self._cursor.store(batch[-1][1])
        return len(batch)

    def backlog(self) -> Backlog:
        """What the collector does not have yet."""
        after, durable = self._cursor.load(), self._audit.head()
        if durable is None:
            return Backlog(0, None)
        if after is not None and after.link == durable.link:
            return Backlog(0, None)
        place = self._going_on_from(after, durable)
        oldest = next(self._audit.records(place), None)
        sent = place.link.number if place else 0
        if oldest is None:
            return Backlog(durable.link.number - sent, None)
        if place != after:  # from the start of a segment, whose first record tells how many there are
            sent = oldest[0].number - 1
        return Backlog(durable.link.number - sent, datetime.fromisoformat(oldest[0].at))

    def _going_on_from(self, after: Head | None, durable: Head) -> Head | None:
        """The cursor's place, or the start of its segment if the trail is another one (restored) by now."""
        if after is None or self._audit.holds(after):
            return after
        latest = min(after.segment, durable.segment)
        older = [path.name for path in self._audit.segments() if path.name <= latest]
        return Head(START, older[-1], 0) if older else None

    def _tell_lost(self, after: Head) -> None:
        if self._told_lost == after:
            return
        self._told_lost = after
        log.error(
            "the audit trail does not go on where forwarding stood; records may come again, or be missing",
            extra={"action": "audit-cursor-lost", "count": after.link.number},
        )

    def _report(self, error: OSError, failing: bool) -> None:
        backlog = self.backlog()
        code = getattr(error, "reason", None) or error.strerror or type(error).__name__
        facts = {"code": code, "count": backlog.records}
        if not failing:
            log.warning("audit collector not reached", extra={"action": "audit-not-forwarded", **facts})
        elif (
            backlog.since is not None
            and datetime.now(UTC) - backlog.since > _BEHIND_AFTER
            and not self._told_behind
        ):
            self._told_behind = True
            log.error("audit collector is behind", extra={"action": "audit-behind", **facts})


def tell_head(audit: AuditLog, stop: threading.Event, every_s: float = _TELL_HEAD_EVERY_S) -> None:
    """Write the head of the chain to the ordinary log, now and every day: an anchor outside the trail."""
    while True:
        log_head(audit)
        if stop.wait(every_s):
            return


def log_head(audit: AuditLog) -> None:
    """Write the head of the chain to the ordinary log."""
    head = audit.head()
    if head is not None and head.link.hash != GENESIS:
        log.info(
            "audit trail", extra={"action": "audit-head", "count": head.link.number, "head": head.link.hash}
        )


def _end_in_order(connection: ssl.SSLSocket) -> None:
    """Say that this was all, and wait until the other side has read it and ends too.

    Raises OSError if it ends in any other way: a kernel resets a connection that is closed unread.
    """
    end: socket.socket = connection
    try:
        end = connection.unwrap()
        while end.recv(4096):
            pass
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        pass  # it ended without a close_notify of its own; many do
    except OSError as error:
        if error.errno != 0 or isinstance(error, ssl.SSLError):  # errno 0: the same end of file
            raise
    try:
        # It may have ended before it got our last bytes: then they are unacknowledged, or were reset.
        trouble = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        unread = struct.unpack("i", fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        if trouble or unread:
            raise ConnectionResetError(trouble or errno.ECONNRESET, "closed before everything was read")
    finally:
        end.close()
