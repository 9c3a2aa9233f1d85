"""What an operator can do to a job, with what that means for its delivery: one transaction each."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from dicom_node.core.breaker import BreakerState, hurried
from dicom_node.core.delivery import DeliveryEvent, DeliveryState
from dicom_node.core.errors import FilePurged, NoSuchJob
from dicom_node.core.job import JobKind
from dicom_node.store import jobs as queue
from dicom_node.store.breakers import load_breaker, save_breaker
from dicom_node.store.results import delivery_state, load_parcels, move_delivery
from dicom_node.store.retention import purged_words
from dicom_node.store.schema import images, jobs


def retry_job(conn: Connection, job_id: int, now: datetime, by: str) -> tuple[str, str]:
    """Start a failed or cancelled job again; a parked delivery is queued again.

    Returns (kind, lane) of what now waits. Raises NoSuchJob or IllegalTransition.
    """
    job = _load(conn, job_id)
    _require_files(conn, job)
    parked = job.delivery_id is not None and delivery_state(conn, job.delivery_id) is DeliveryState.PARKED
    if parked:
        move_delivery(conn, job.delivery_id, DeliveryEvent.RELEASE)
    if parked and job.kind == JobKind.CONFIRM:
        # The archive never kept it: asking again would find nothing, sending again may.
        queue.cancel(conn, job_id, now, f"{by}: sent again")
        again = queue.NewJob(
            kind=JobKind.DELIVER,
            lane=job.lane,
            priority=job.priority,
            study_id=job.study_id,
            image_id=job.image_id,
            delivery_id=job.delivery_id,
            max_attempts=queue.attempts_allowed(conn, JobKind.DELIVER, job.delivery_id) or job.max_attempts,
        )
        queue.enqueue(conn, again, now)
        return JobKind.DELIVER, job.lane
    queue.revive(conn, job_id, now, by)
    return job.kind, job.lane


def cancel_job(conn: Connection, job_id: int, now: datetime, by: str) -> tuple[str, str]:
    """End a job for good; a delivery that was still to be made is parked.

    Returns (kind, lane). Raises NoSuchJob or IllegalTransition.
    """
    job = _load(conn, job_id)
    queue.cancel(conn, job_id, now, by)
    if job.kind == JobKind.DELIVER and delivery_state(conn, job.delivery_id) is DeliveryState.QUEUED:
        move_delivery(conn, job.delivery_id, DeliveryEvent.REFUSE, words=f"cancelled by {by}")
    return job.kind, job.lane


def try_destination(conn: Connection, destination: str) -> BreakerState:
    """Let the next trial of a destination that is left alone begin at once; return how it stood before."""
    breaker = load_breaker(conn, destination)
    if breaker.state is BreakerState.OPEN:
        save_breaker(conn, destination, hurried(breaker))
    return breaker.state


def _require_files(conn: Connection, job: Row[Any]) -> None:
    """Raise FilePurged if what the job would work on was purged."""
    image = conn.execute(select(images).where(images.c.id == job.image_id)).one()
    if job.kind == JobKind.INFER and image.purged_at is not None:
        raise FilePurged(purged_words("image", image.purged_at))
    if job.delivery_id is not None:
        parcel = load_parcels(conn, [job.delivery_id])[job.delivery_id]
        to_send = parcel.state in (DeliveryState.QUEUED, DeliveryState.PARKED)
        if to_send and parcel.purged_at is not None:
            raise FilePurged(purged_words("result", parcel.purged_at))


def _load(conn: Connection, job_id: int) -> Row[Any]:
    row = conn.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NoSuchJob(f"job {job_id}; `emode jobs list` shows what there is")
    return row
