"""What the audit trail is told of deliveries: what left, where to, what is proven; many in one record.

PS3.15 A.5.3.6 ("DICOM Instances Transferred") is about the end of a transfer of instances of a study, however
many they were: what goes over one association is told when that ends.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from dicom_node.core.delivery import DeliveryState
from dicom_node.network.audit import studies_of
from dicom_node.network.requestor import RemoteAE
from dicom_node.store.results import Parcel
from dicom_node.telemetry.audit_message import Actor, AuditEvent, AuditKind, Outcome, Part
from dicom_node.telemetry.audit_trail import AuditTrail
from dicom_node.work.outcome import Kept

_TOLD: dict[DeliveryState, tuple[AuditKind, Outcome]] = {
    DeliveryState.ACCEPTED: (AuditKind.INSTANCES_DELIVERED, Outcome.SUCCESS),
    DeliveryState.CONFIRMED: (AuditKind.DELIVERY_CONFIRMED, Outcome.SUCCESS),
    DeliveryState.PARKED: (AuditKind.DELIVERY_REFUSED, Outcome.SERIOUS),
}

_TELL_AFTER = 500
"""Results after which it is told what ended so far; an association may stay open for minutes."""

_TELL_EVERY = timedelta(seconds=10)


class DeliveryAudit:
    """Hears of one lane's deliveries, from any thread, and tells the trail when the lane rests."""

    def __init__(
        self, remote: RemoteAE, trail: AuditTrail, clock: Callable[[], datetime], kept: Kept
    ) -> None:
        """Tell `trail` what goes to `remote` or is proven there.

        kept  what the lane keeps open: as long as it is open, what ends belongs together.
        """
        self._trail = trail
        self._clock = clock
        self._kept = kept
        self._actors = (
            Actor(remote.calling_ae_title, Part.SOURCE, requestor=True, also="courier"),
            Actor(remote.ae_title, Part.DESTINATION, address=remote.host, also=remote.name),
        )
        self._lock = threading.Lock()
        self._ended: dict[DeliveryState, Counter[tuple[str, str]]] = {}
        """What is to be told: (study, SOP class) -> results."""
        self._since: datetime | None = None

    def begun(self, parcels: Iterable[Parcel]) -> None:
        """These are about to be sent."""
        self._record(AuditKind.DELIVERY_BEGUN, _counted(parcels), Outcome.SUCCESS)

    def ended(self, moved: Sequence[tuple[Parcel, DeliveryState]]) -> None:
        """These have come to another state, and that is committed."""
        now = self._clock()
        with self._lock:
            for state in _TOLD:
                some = _counted(parcel for parcel, reached in moved if reached is state)
                if some:
                    self._ended.setdefault(state, Counter()).update(some)
                    self._since = self._since or now
            count = sum(some.total() for some in self._ended.values())
            urgent = DeliveryState.PARKED in self._ended or count >= _TELL_AFTER
            long_ago = self._since is not None and not timedelta() <= now - self._since < _TELL_EVERY
        if urgent or long_ago:
            self.tell()

    def tell(self) -> None:
        """Record what has ended."""
        with self._lock:
            ended, self._ended, self._since = self._ended, {}, None
        for state, (kind, outcome) in _TOLD.items():
            self._record(kind, ended.get(state, Counter()), outcome)

    def rest(self) -> float:
        """As `Kept`; what is no longer kept has been told of."""
        left_s = self._kept.rest()
        if left_s == float("inf"):
            self.tell()
        return left_s

    def close(self) -> None:
        """As `Kept`."""
        self._kept.close()
        self.tell()

    def _record(self, kind: AuditKind, counts: Counter[tuple[str, str]], outcome: Outcome) -> None:
        for study in studies_of(counts):
            self._trail.record(AuditEvent(kind, self._clock(), self._actors, (study,), outcome))


def _counted(parcels: Iterable[Parcel]) -> Counter[tuple[str, str]]:
    return Counter((parcel.study_instance_uid, parcel.sop_class_uid) for parcel in parcels)
