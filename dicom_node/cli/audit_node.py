"""What the audit trail is told of the node itself: start, stop, its processes, its configuration."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from dicom_node.cli.access import actor, person
from dicom_node.config import Config
from dicom_node.supervise import Post
from dicom_node.telemetry.audit_message import Actor, AuditEvent, AuditKind, ObjectKind, Outcome, Part, Thing
from dicom_node.telemetry.audit_syslog import log_head


class NodeAudit:
    """The life of one `emode serve`, as the audit trail has it (PS3.15 A.5.3.1, Application Activity)."""

    def __init__(self, settings: Config, source: Path, text: str) -> None:
        """Prepare; entering records the start, leaving the stop."""
        from dicom_node.node.people import audit_log_of, audit_of
        from dicom_node.node.values import layout_of, now, software_version

        self._audit = audit_log_of(settings)
        self._trail = audit_of(settings)
        self._now = now
        self._known = layout_of(settings).audit / "configuration"
        self._digest = hashlib.sha256(text.encode()).hexdigest()
        self._source = source.resolve()
        node = Actor(f"emode {software_version()}", Part.APPLICATION, also=f"pid {os.getpid()}")
        launcher = actor(person(settings.data_dir))
        self._actors = (
            node,
            Actor(launcher.name, Part.LAUNCHER, True, launcher.address, launcher.also),
        )

    def process_ended(self, post: Post, status: int | None) -> None:
        """One process ended before its time and is started again."""
        words = f"{post.name} ended with status {status}; started again"
        self._trail.record(
            AuditEvent(AuditKind.PROCESS_ENDED, self._now(), self._actors[:1], (), Outcome.SERIOUS, words)
        )

    def __enter__(self) -> Self:
        self._tell(AuditKind.NODE_STARTED)
        self._tell_configuration()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(AuditKind.NODE_STOPPED)
        log_head(self._audit)

    def _tell(self, kind: AuditKind) -> None:
        self._trail.record(AuditEvent(kind, self._now(), self._actors))

    def _tell_configuration(self) -> None:
        try:
            before = self._known.read_text(encoding="ascii").strip()
        except OSError:
            before = "none"
        if before == self._digest:
            return
        details = (("sha256", self._digest), ("sha256-before", before))
        self._trail.record(
            AuditEvent(
                AuditKind.CONFIGURATION_CHANGED,
                self._now(),
                self._actors,
                (Thing(ObjectKind.CONFIGURATION, str(self._source), details=details),),
            )
        )
        try:
            self._known.write_text(self._digest + "\n", encoding="ascii")
        except OSError:
            return  # no room: the change is recorded once more at the next start
