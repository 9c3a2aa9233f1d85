"""Where the node's parts report what has to be audited. Reporting never fails, nor waits for a network.

`DirectTrail` has the record on disk when `record` returns: for commands and the supervisor, where a person
waits anyway. `QueuedTrail` hands it to a thread, which writes all that has come in with one sync: for the
receiver and the courier, where nothing may stand between two images.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from dicom_node.telemetry.audit_log import AuditLog
from dicom_node.telemetry.audit_message import Actor, AuditEvent, AuditKind, Outcome, Part, from_xml

log = logging.getLogger(__name__)

_MOST_WAITING = 10_000
"""Records kept in memory while the disk takes none; about 20 MB."""

_BATCH = 500
_GATHER_S = 0.2
_PAUSE_S = 2.0


class AuditTrail(Protocol):
    """Takes events."""

    def record(self, event: AuditEvent) -> None:
        """Keep this event; never raises for what the disk does."""


class Unrecorded:
    """A trail that keeps nothing: for tools and tests that run no node."""

    def record(self, event: AuditEvent) -> None:
        """Do nothing."""


NO_AUDIT = Unrecorded()


class DirectTrail:
    """Writes each event before it returns."""

    def __init__(self, audit: AuditLog) -> None:
        """Write to this log."""
        self._audit = audit

    def record(self, event: AuditEvent) -> None:
        """Write it now. If the disk takes nothing, the log says so and the node goes on."""
        try:
            self._audit.append([event])
        except OSError as error:
            _report_failure(error, 1)

    def record_once(self, event: AuditEvent, within: timedelta) -> None:
        """As `record`, unless the same was recorded a moment ago: somebody who watches a screen."""
        for record in reversed(self._audit.latest()):
            try:
                known = from_xml(record.message)
            except ValueError:
                continue
            if known.at < event.at - within:
                break
            if (known.kind, known.actors, known.things) == (event.kind, event.actors, event.things):
                return
        self.record(event)


class QueuedTrail:
    """Writes events from a thread of its own, all that wait with one sync."""

    def __init__(self, audit: AuditLog, *, most_waiting: int = _MOST_WAITING) -> None:
        """Start the thread; `close` ends it."""
        self._audit = audit
        self._most = most_waiting
        self._waiting: deque[AuditEvent] = deque()
        self._lost = 0
        self._lost_since: datetime | None = None
        self._lock = threading.Lock()
        self._something = threading.Event()
        self._urgent = threading.Event()
        self._stop = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(self, event: AuditEvent) -> None:
        """Take it; it is on disk a moment later (at once, if it is an alert)."""
        with self._lock:
            if len(self._waiting) >= self._most:
                self._lost += 1
                self._lost_since = self._lost_since or event.at
                return
            self._waiting.append(event)
        if event.outcome >= Outcome.SERIOUS:
            self._urgent.set()
        self._something.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, and end."""
        self._stop.set()
        self._urgent.set()
        self._something.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._something.wait()
            if not self._stop.is_set():
                self._urgent.wait(_GATHER_S)  # one sync for what comes in together
            self._urgent.clear()
            self._something.clear()
            while self._waiting or self._lost:
                if not self._write():
                    if self._stop.is_set():
                        return
                    self._stop.wait(_PAUSE_S)
            if self._stop.is_set() and not self._waiting:
                return

    def _write(self) -> bool:
        """Write one batch; True if it was kept."""
        with self._lock:
            batch: list[AuditEvent] = [self._waiting[i] for i in range(min(_BATCH, len(self._waiting)))]
            lost, since = self._lost, self._lost_since
        notice: Iterable[AuditEvent] = [_gap(lost, since)] if lost and since else []
        try:
            # What was lost came after what still waits.
            self._audit.append([*batch, *notice] if len(batch) < _BATCH else batch)
        except OSError as error:
            if not self._failing:
                _report_failure(error, len(batch))
            self._failing = True
            return False
        with self._lock:
            for _ in batch:
                self._waiting.popleft()
            if len(batch) < _BATCH and lost:
                self._lost -= lost
                self._lost_since = self._lost_since if self._lost else None
        if self._failing:
            self._failing = False
            log.info("audit trail is written again", extra={"action": "audit-resumed", "count": lost})
        return True


def _gap(lost: int, since: datetime | None) -> AuditEvent:
    now = datetime.now(UTC)
    began = since.isoformat(timespec="seconds") if since else "an unknown time"
    return AuditEvent(
        AuditKind.RECORDS_LOST,
        now,
        (Actor("audit trail", Part.APPLICATION),),
        outcome=Outcome.SERIOUS,
        words=f"{lost} record(s) since {began} are missing: the disk took none, and memory has bounds",
    )


def _report_failure(error: OSError, count: int) -> None:
    log.error(
        "audit trail cannot be written",
        extra={"action": "audit-failed", "code": error.strerror or type(error).__name__, "count": count},
    )
