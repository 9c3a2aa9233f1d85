"""The receiver's edge: who may associate, and one answer for each request."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

from pydicom.uid import UID
from pynetdicom.dsutils import decode
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.core import faults
from dicom_node.core.errors import ClassNotAccepted, NodeError, ObjectUnreadable
from dicom_node.core.image import Arrival
from dicom_node.dicom.services import RETURNED_CLASSES, ULTRASOUND_CLASSES, UNCOMPRESSED, transfer_syntaxes_in
from dicom_node.network.admission import Admission
from dicom_node.network.association import Association, AssociationLimits, Served
from dicom_node.network.audit import IncomingAudit
from dicom_node.network.command import C_ECHO_RQ, C_STORE_RQ
from dicom_node.network.commitment import ReportRequest, TakeReport, answer_report
from dicom_node.network.messages import Message
from dicom_node.network.negotiation import Rejection, offer
from dicom_node.network.server import Arrived, Door, DoorLimits, Listener, Visit
from dicom_node.network.spool import Spool
from dicom_node.network.tls import Agreed
from dicom_node.telemetry.audit_trail import NO_AUDIT
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)

_SUCCESS = 0x0000
_CANNOT_UNDERSTAND = 0xC000
_OUT_OF_RESOURCES = 0xA700


@dataclass(frozen=True, slots=True)
class ScpSettings:
    """How to listen and whom to let in."""

    listeners: tuple[Listener, ...]
    admission: Admission
    door: DoorLimits
    association: AssociationLimits
    has_more: Callable[[], bool] = lambda: False
    """Has this process more connections than another that accepts from the same sockets?"""
    tell_count: Callable[[int], None] = lambda count: None
    """Told how many connections it has."""


@dataclass(frozen=True, slots=True)
class Received:
    """A C-STORE that has arrived whole: a file on disk, not yet durable, and what its command says."""

    spool: Spool
    arrival: Arrival
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Taken:
    """An object that is durable."""

    study_instance_uid: str
    announce: Callable[[], None]
    """Tells whoever has to know; can wait until the sender has its answer."""


@dataclass(frozen=True, slots=True)
class ReportDesk:
    """Who takes the storage commitment reports that archives bring on associations of their own."""

    report_only_ae_titles: frozenset[str]
    """Titles that we ask under and no route has."""
    taker: Callable[[str], TakeReport]
    """Calling AE title -> what takes its reports."""


class StoreScp:
    """C-ECHO, C-STORE and reports of storage commitment on one port for all our AE titles.

    take  makes one object durable; returning means 0000, a NodeError its status.
    """

    def __init__(
        self,
        settings: ScpSettings,
        take: Callable[[Received], Taken],
        desk: ReportDesk,
        audit: IncomingAudit | None = None,
    ) -> None:
        """Prepare; nobody is let in before `start`."""
        self._settings = settings
        self._take = take
        self._desk = desk
        self._audit = audit or IncomingAudit(NO_AUDIT)
        self._counts: Counter[Association] = Counter()
        self._counts_lock = threading.Lock()
        # Shared by all associations: negotiation only reads them.
        self._for_reports = (
            offer(Verification),
            # Both roles: on its own association the archive is the SCP although it is the one who calls.
            offer(StorageCommitmentPushModel, both_roles=True),
        )
        self._all = (
            *self._for_reports,
            *(offer(uid, transfer_syntaxes_in()) for uid in ULTRASOUND_CLASSES),
            *(offer(uid, UNCOMPRESSED) for uid in RETURNED_CLASSES),
        )
        self._door = Door(
            settings.listeners,
            settings.door,
            self._welcome,
            self._audit.turned_away,
            settings.has_more,
            settings.tell_count,
        )

    def start(self) -> None:
        """Take associations."""
        self._door.start()

    def stop(self, drain_s: float) -> None:
        """Take no new association, give the open ones `drain_s` seconds to end, then abort them."""
        self._door.stop(drain_s)

    def _welcome(self, arrived: Arrived) -> Association:
        def left(visit: Visit) -> None:
            self._settings.admission.seats.leave(visit)
            arrived.left(visit)

        return Association(self, self._settings.association, replace(arrived, left=left))

    # -- what an association asks of its host -------------------------------------------------

    def admit(self, guest: Association, agreed: Agreed | None) -> Rejection | None:
        """By the closed list."""
        return self._settings.admission.admit(guest, guest.arrival, agreed)

    def offered_to(self, arrival: Arrival) -> Sequence[PresentationContext]:
        """A title that no route has takes reports, and no images that nobody would want."""
        only_reports = arrival.called_ae_title in self._desk.report_only_ae_titles
        return self._for_reports if only_reports else self._all

    def began(self, guest: Association) -> None:
        """For the audit trail."""
        self._audit.began(guest, guest.arrival)

    def ended(self, guest: Association, *, released: bool) -> None:
        """For the audit trail and the log."""
        with self._counts_lock:
            count = self._counts.pop(guest, 0)
        words = "association released" if released else "association aborted"
        log.info(
            words,
            extra={
                "action": words.replace(" ", "-"),
                "peer": guest.arrival.calling_ae_title,
                "address": guest.arrival.address,
                "count": count,
            },
        )
        self._audit.ended(guest, guest.arrival, released=released)

    def serve(self, guest: Association, message: Message) -> Served:
        """One request in, one status out."""
        if message.command.field == C_ECHO_RQ:
            return Served(_SUCCESS)
        if message.command.field == C_STORE_RQ:
            return self._store(guest, message)
        return Served(self._report(guest, message))

    def answered(self, guest: Association, message: Message) -> None:
        """A moment at which a test may kill us."""
        if message.command.field == C_STORE_RQ:
            faults.step("receive.answered")

    def _report(self, guest: Association, message: Message) -> int:
        """N-EVENT-REPORT: an archive reports on an association of its own."""
        sender = guest.arrival.calling_ae_title
        encoded, syntax = message.data_set or b"", UID(message.context.transfer_syntax)
        request = ReportRequest(
            sop_instance_uid=message.command.sop_instance_uid,
            event_type=message.command.event_type or 0,
            information=lambda: decode(
                BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated
            ),
            address=guest.arrival.address,
        )
        return answer_report(request, self._desk.taker(sender), sender)

    def _store(self, guest: Association, message: Message) -> Served:
        started = time.monotonic()
        fields = {"peer": guest.arrival.calling_ae_title, "address": guest.arrival.address}
        try:
            received = _whole(message, guest.arrival)
            taken = self._take(received)
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
            return Served(error.dimse_status)
        except Exception as error:  # noqa: BLE001 - the sender needs an answer whatever happened
            # Our disk or memory, not their object: the sender shall try again.
            ours = isinstance(error, OSError | MemoryError)
            log.error(
                "object not kept" if ours else "object failed",
                extra={
                    "action": "object-failed",
                    "code": type(error).__name__,
                    "where": where(error),
                    **fields,
                },
            )
            return Served(_OUT_OF_RESOURCES if ours else _CANNOT_UNDERSTAND)
        seconds = time.monotonic() - started
        return Served(_SUCCESS, lambda: self._stored(guest, received, taken, seconds))

    def _stored(self, guest: Association, received: Received, taken: Taken, seconds: float) -> None:
        """Everybody else who has to know of an object; its sender knows already."""
        taken.announce()
        self._audit.arrived(guest, guest.arrival, taken.study_instance_uid, received.sop_class_uid)
        with self._counts_lock:
            self._counts[guest] += 1
        log.debug(
            "object stored",
            extra={
                "action": "object-stored",
                "seconds": seconds,
                "peer": guest.arrival.calling_ae_title,
                "address": guest.arrival.address,
            },
        )


def _whole(message: Message, arrival: Arrival) -> Received:
    """Raise what is wrong with an object before anybody looks into it."""
    command, spool = message.command, message.spool
    if spool is None:
        raise ObjectUnreadable("the message has no data set")
    if spool.failure is not None:
        raise spool.failure
    if command.sop_class_uid != message.context.abstract_syntax:
        raise ClassNotAccepted(f"{command.sop_class_uid} in a context of {message.context.abstract_syntax}")
    return Received(spool, arrival, command.sop_class_uid, command.sop_instance_uid)
