"""Take back what dead or hanging holders left: jobs wait again, and deliveries out of attempts are parked."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.delivery import DeliveryEvent, DeliveryState
from dicom_node.core.job import JobKind
from dicom_node.store.jobs import expire
from dicom_node.store.results import delivery_state, move_delivery

_CUT_SHORT = {
    JobKind.DELIVER: (DeliveryState.QUEUED, "sending was begun as often as allowed and never ended"),
    JobKind.CONFIRM: (DeliveryState.ACCEPTED, "asking was begun as often as allowed and never ended"),
}
"""Kind -> what its delivery is until such a job ends, and why it is parked if it never does."""


def take_back(
    conn: Connection,
    now: datetime,
    *,
    kind: JobKind,
    lane: str,
    leases: Collection[str] | None,
    why: str = "",
) -> None:
    """Return a lane's orphaned jobs to the queue, or end those that ran out of attempts.

    leases, why  as of `jobs.expire`.
    """
    for _, delivery_id in expire(conn, now, kind=kind, lane=lane, leases=leases, why=why):
        if delivery_id is None or kind not in _CUT_SHORT:
            continue
        state, words = _CUT_SHORT[kind]
        if delivery_state(conn, delivery_id) is state:
            move_delivery(conn, delivery_id, DeliveryEvent.REFUSE, words=words)
    faults.step("takeback.changed")
