"""The receiver's edge: who may associate, and one answer for each C-STORE."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.core import faults
from dicom_node.core.errors import ClassNotAccepted, NodeError, ObjectUnreadable
from dicom_node.core.image import Arrival
from dicom_node.dicom.services import RETURNED_CLASSES, ULTRASOUND_CLASSES, UNCOMPRESSED, transfer_syntaxes_in
from dicom_node.network.acceptor import Acceptance
from dicom_node.network.adapter import (
    application_entity,
    limit_silence,
    send_at_once,
    serve_storage_of,
)
from dicom_node.network.admission import Admission
from dicom_node.network.audit import IncomingAudit
from dicom_node.network.commitment import TakeReport, answer_report
from dicom_node.network.server import Arrived, Door, DoorLimits, Listener, Visit
from dicom_node.network.spool import Spool, SpoolLimits
from dicom_node.telemetry.audit_trail import NO_AUDIT
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)

# pynetdicom counts connections that were never admitted; `Seats` does not.
_COUNTED_BY_US = 1 << 30

_SUCCESS = 0x0000
_CANNOT_UNDERSTAND = 0xC000
_OUT_OF_RESOURCES = 0xA700


@dataclass(frozen=True, slots=True)
class ScpSettings:
    """How to listen and whom to let in."""

    listeners: tuple[Listener, ...]
    admission: Admission
    door: DoorLimits
    max_pdu_bytes: int
    idle_timeout_s: float
    spool: SpoolLimits


@dataclass(frozen=True, slots=True)
class Spooled:
    """A received object: a Part 10 file on disk, not yet durable, and what the command said of it."""

    path: Path
    arrival: Arrival
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class ReportDesk:
    """Who takes the storage commitment reports that archives bring on associations of their own."""

    report_only_ae_titles: frozenset[str]
    """Titles that we ask under and no route has."""
    taker: Callable[[str], TakeReport]
    """Calling AE title -> what takes its reports."""


class StoreScp:
    """C-ECHO, C-STORE and reports of storage commitment on one port for all our AE titles.

    take  makes one object durable; returning its Study Instance UID means 0000, a NodeError its status.
    """

    def __init__(
        self,
        settings: ScpSettings,
        take: Callable[[Spooled], str],
        desk: ReportDesk,
        audit: IncomingAudit | None = None,
    ) -> None:
        """Prepare; nothing listens before `start`."""
        self._settings = settings
        self._take = take
        self._desk = desk
        self._audit = audit or IncomingAudit(NO_AUDIT)
        self._counts: WeakKeyDictionary[Association, int] = WeakKeyDictionary()
        self._counts_lock = threading.Lock()
        self._ae = application_entity(min(settings.admission.called_ae_titles))
        self._ae.maximum_associations = _COUNTED_BY_US
        self._ae.maximum_pdu_size = settings.max_pdu_bytes
        self._ae.network_timeout = settings.idle_timeout_s
        self._ae.acse_timeout = settings.door.request_timeout_s
        self._ae.add_supported_context(Verification)
        # Both roles: on its own association the archive is the SCP although it is the one who calls.
        self._ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        for sop_class in ULTRASOUND_CLASSES:
            self._ae.add_supported_context(sop_class, list(transfer_syntaxes_in()))
        for sop_class in RETURNED_CLASSES:
            self._ae.add_supported_context(sop_class, list(UNCOMPRESSED))
        serve_storage_of(ULTRASOUND_CLASSES)
        self._handlers = (
            (evt.EVT_CONN_OPEN, send_at_once),
            (evt.EVT_CONN_OPEN, limit_silence, [settings.idle_timeout_s]),
            (evt.EVT_REQUESTED, settings.admission.admit),
            (evt.EVT_REQUESTED, self._narrow),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_EVENT_REPORT, self._report),
            (evt.EVT_RELEASED, self._ended, ["association released"]),
            (evt.EVT_ABORTED, self._ended, ["association aborted"]),
            *self._audit.handlers(),
            *([(evt.EVT_PDU_SENT, _answered)] if faults.is_armed() else []),
        )
        self._door = Door(settings.listeners, settings.door, self._welcome, self._audit.turned_away)

    def start(self) -> list[int]:
        """Listen; return the ports, in the order of the listeners. Raises OSError."""
        return self._door.start()

    def stop(self, drain_s: float) -> None:
        """Take no new association, give the open ones `drain_s` seconds to end, then abort them."""
        self._door.stop(drain_s)

    def _welcome(self, arrived: Arrived) -> Acceptance:
        def left(visit: Visit) -> None:
            self._settings.admission.seats.leave(visit)
            arrived.left(visit)

        return Acceptance(
            self._ae,
            self._ae.supported_contexts,
            self._handlers,
            self._settings.spool,
            replace(arrived, left=left),
        )

    def _narrow(self, event: evt.Event) -> None:
        """EVT_REQUESTED: a title that no route has takes reports, and no images that nobody would want."""
        called = event.assoc.requestor.primitive.called_ae_title.strip()
        if called in self._desk.report_only_ae_titles:
            event.assoc.acceptor.supported_contexts = [
                context
                for context in event.assoc.acceptor.supported_contexts
                if context.abstract_syntax in (Verification, StorageCommitmentPushModel)
            ]

    def _report(self, event: evt.Event) -> tuple[int, None]:
        """EVT_N_EVENT_REPORT: an archive reports on an association of its own."""
        sender = event.assoc.requestor.ae_title.strip()
        return answer_report(event, self._desk.taker(sender), sender)

    def _store(self, event: evt.Event) -> int:
        """EVT_C_STORE: one object in, one status out."""
        request = event.assoc.requestor
        spooled = Spooled(
            path=Path(event.request._dataset_path or ""),
            arrival=Arrival(
                request.ae_title.strip(), request.primitive.called_ae_title.strip(), request.address
            ),
            sop_class_uid=str(event.request.AffectedSOPClassUID),
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
        )
        started = time.monotonic()
        fields = {"peer": spooled.arrival.calling_ae_title, "address": spooled.arrival.address}
        try:
            _require_whole(event)
            study = self._take(spooled)
        except NodeError as error:
            log.warning(
                "object refused",
                extra={
                    "action": "object-refused",
                    "code": error.code,
                    "status": f"0x{error.dimse_status:04X}",
                    **fields,
                },
            )
            return error.dimse_status
        except (OSError, MemoryError) as error:
            # Our disk or memory, not their object: the sender shall try again.
            log.error(
                "object not kept",
                extra={
                    "action": "object-failed",
                    "code": type(error).__name__,
                    "where": where(error),
                    **fields,
                },
            )
            return _OUT_OF_RESOURCES
        except Exception as error:  # noqa: BLE001 - the sender needs an answer whatever happened
            log.error(
                "object failed",
                extra={
                    "action": "object-failed",
                    "code": type(error).__name__,
                    "where": where(error),
                    **fields,
                },
            )
            return _CANNOT_UNDERSTAND
        self._audit.arrived(event.assoc, study, spooled.sop_class_uid)
        with self._counts_lock:
            self._counts[event.assoc] = self._counts.get(event.assoc, 0) + 1
        log.debug(
            "object stored",
            extra={"action": "object-stored", "seconds": time.monotonic() - started, **fields},
        )
        return _SUCCESS

    def _ended(self, event: evt.Event, words: str) -> None:
        with self._counts_lock:
            count = self._counts.pop(event.assoc, 0)
        log.info(
            words,
            extra={
                "action": words.replace(" ", "-"),
                "peer": event.assoc.requestor.ae_title.strip(),
                "address": event.assoc.requestor.address,
                "count": count,
            },
        )


def _require_whole(event: evt.Event) -> None:
    """Raise what is wrong with an object before anybody looks into it."""
    spool = event.request._dataset_file
    if not isinstance(spool, Spool):
        raise ObjectUnreadable("the message has no data set")
    if spool.failure is not None:
        raise spool.failure
    if event.request.AffectedSOPClassUID != event.context.abstract_syntax:
        raise ClassNotAccepted(
            f"{event.request.AffectedSOPClassUID} in a context of {event.context.abstract_syntax}"
        )


def _answered(event: evt.Event) -> None:
    """EVT_PDU_SENT, under the test flag only."""
    if isinstance(event.pdu, P_DATA_TF):
        faults.step("receive.answered")
