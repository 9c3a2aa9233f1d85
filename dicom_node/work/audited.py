"""Deliver and confirm, with a word to the audit trail: what left, where to, what is proven."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from dicom_node.core.delivery import DeliveryState
from dicom_node.core.errors import StoreBusy
from dicom_node.network.audit import studies_of
from dicom_node.network.requestor import RemoteAE
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob
from dicom_node.store.results import Parcel, load_parcels
from dicom_node.telemetry.audit_message import Actor, AuditEvent, AuditKind, Outcome, Part
from dicom_node.telemetry.audit_trail import AuditTrail
from dicom_node.work.outcome import Handler
from dicom_node.work.outcome import Outcome as JobOutcome

_TOLD: dict[DeliveryState, tuple[AuditKind, Outcome]] = {
    DeliveryState.ACCEPTED: (AuditKind.INSTANCES_DELIVERED, Outcome.SUCCESS),
    DeliveryState.CONFIRMED: (AuditKind.DELIVERY_CONFIRMED, Outcome.SUCCESS),
    DeliveryState.PARKED: (AuditKind.DELIVERY_REFUSED, Outcome.SERIOUS),
}


@dataclass(frozen=True, slots=True)
class Audited:
    """A handler for jobs of one destination, audited by what the table says before and after each batch."""

    handler: Handler
    remote: RemoteAE
    database: Database
    trail: AuditTrail
    clock: Callable[[], datetime]
    sends: bool
    """True for deliver jobs: the beginning of the transfer is recorded too."""
    _open: dict[int, Parcel] = field(default_factory=dict)
    """Parcels of the latest batch that had not moved at its end, as they were: the loop commits its last
    outcomes after the handler is closed."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, claimed: Sequence[ClaimedJob]) -> Iterator[JobOutcome]:
        """Run the handler; one record for each kind of end, with its studies."""
        self.catch_up()
        with self._lock:
            self._open.clear()  # the batch before is committed by now; what is still open did not end in it
        before = self._parcels([job.delivery_id for job in claimed if job.delivery_id])
        if self.sends:
            waiting = [p for p in before.values() if p.state is DeliveryState.QUEUED]
            self._tell(AuditKind.DELIVERY_BEGUN, waiting, Outcome.SUCCESS)
        try:
            yield from self.handler(claimed)
        finally:
            with self._lock:
                self._open.update(before)
            self.catch_up()

    def catch_up(self) -> None:
        """Tell what of the latest batch has ended since it was last looked at; from any thread."""
        with self._lock:
            after = self._parcels(list(self._open)) if self._open else {}
            moved = [p for p in after.values() if p.state is not self._open[p.delivery_id].state]
            for parcel in moved:
                del self._open[parcel.delivery_id]
            for state, (kind, outcome) in _TOLD.items():
                self._tell(kind, [p for p in moved if p.state is state], outcome)

    def _parcels(self, deliveries: list[int]) -> dict[int, Parcel]:
        # A database that is busy is no reason not to deliver.
        with suppress(StoreBusy), self.database.read() as conn:
            return load_parcels(conn, deliveries)
        return {}

    def _tell(self, kind: AuditKind, parcels: Sequence[Parcel], outcome: Outcome) -> None:
        actors = (
            Actor(self.remote.calling_ae_title, Part.SOURCE, requestor=True, also="courier"),
            Actor(self.remote.ae_title, Part.DESTINATION, address=self.remote.host, also=self.remote.name),
        )
        counts = Counter((p.study_instance_uid, p.sop_class_uid) for p in parcels)
        for study in studies_of(counts):
            self.trail.record(AuditEvent(kind, self.clock(), actors, (study,), outcome))
