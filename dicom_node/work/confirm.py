"""Ask a destination whether it really has what it said it stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.delivery import DeliveryEvent, DeliveryState
from dicom_node.core.errors import KeepsNothing, NodeError, NotInArchive
from dicom_node.core.job import JobKind
from dicom_node.network.query import listed_instances
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob, NewJob, enqueue, times_queued
from dicom_node.store.results import Parcel, load_parcels, move_delivery
from dicom_node.work.deliver import Archive
from dicom_node.work.loop import Effect, Outcome

_INDEXED_WITHIN = timedelta(minutes=1)
"""Time after its success at which an archive that does not list an instance counts as not having it."""

_SEND_AT_MOST = 3
"""Times a result is sent to an archive that says success and does not keep it."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """Handler for confirm jobs of one destination."""

    archive: Archive
    database: Database

    def __call__(self, claimed: Sequence[ClaimedJob]) -> Iterator[Outcome]:
        """One query for each series among the claimed."""
        faults.step("confirm.claimed")
        with self.database.read() as conn:
            parcels = load_parcels(conn, [job.delivery_id for job in claimed if job.delivery_id])
        pairs = [(job, parcels[job.delivery_id or 0]) for job in claimed]
        asked = [(job, parcel) for job, parcel in pairs if parcel.state is DeliveryState.ACCEPTED]
        yield from (
            Outcome(job, detail=f"is {p.state}", asked=False) for job, p in pairs if (job, p) not in asked
        )
        if not asked:
            return
        try:
            listed = listed_instances(
                self.archive.remote, {(p.study_instance_uid, p.series_instance_uid) for _, p in asked}
            )
        except NodeError as error:
            yield from (Outcome(job, error=error) for job, _ in asked)
            return
        faults.step("confirm.answered")
        for job, parcel in asked:
            there = listed[parcel.study_instance_uid, parcel.series_instance_uid]
            if isinstance(there, NodeError):
                yield Outcome(job, error=there)
            elif parcel.sop_instance_uid in there:
                yield Outcome(job, effect=_confirmed(parcel), detail="listed by C-FIND")
            elif parcel.accepted_at is None or job.claimed_at - parcel.accepted_at < _INDEXED_WITHIN:
                yield Outcome(job, error=NotInArchive(f"{self.archive.remote}; it may still be indexing"))
            else:
                yield self._lost(job, parcel)

    def _lost(self, job: ClaimedJob, parcel: Parcel) -> Outcome:
        """Success was said and the instance is not there: send it again, but not for ever."""
        with self.database.read() as conn:
            sent = times_queued(conn, JobKind.DELIVER, parcel.delivery_id)
        words = f"{self.archive.remote}: said success {sent} time(s), lists nothing"

        def send_again(conn: Connection, now: datetime) -> None:
            move_delivery(conn, parcel.delivery_id, DeliveryEvent.MISS, words=words)
            again = NewJob(
                kind=JobKind.DELIVER,
                lane=job.lane,
                priority=job.priority,
                study_id=job.study_id,
                image_id=job.image_id,
                delivery_id=job.delivery_id,
                max_attempts=self.archive.max_attempts,
            )
            enqueue(conn, again, now)

        def park(conn: Connection, now: datetime) -> None:
            move_delivery(conn, parcel.delivery_id, DeliveryEvent.REFUSE, words=words)

        if sent >= _SEND_AT_MOST:
            return Outcome(job, error=KeepsNothing(f"{words}; look into its log"), on_failure=park)
        rings = ((JobKind.DELIVER, job.lane),)
        return Outcome(job, effect=send_again, detail="not listed; sent again", rings=rings)


def _confirmed(parcel: Parcel) -> Effect:
    def confirm(conn: Connection, now: datetime) -> None:
        move_delivery(conn, parcel.delivery_id, DeliveryEvent.FIND, confirmed_at=now, confirmed_by="find")

    return confirm
