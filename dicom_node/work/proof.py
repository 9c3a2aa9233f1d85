"""What an archive's word about a delivery means for it, whichever way it was asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dicom_node.core.delivery import DeliveryEvent
from dicom_node.core.errors import KeepsNothing, NodeError
from dicom_node.core.job import JobKind
from dicom_node.store.commitments import close_items
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob, NewJob, enqueue, times_queued
from dicom_node.store.results import Parcel, move_delivery
from dicom_node.work.deliver import Archive
from dicom_node.work.outcome import Effect, Moved, Outcome

_SEND_AT_MOST = 3
"""Times a result is sent to an archive that says success and does not keep it."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The ends that a confirm job of one destination can come to."""

    archive: Archive
    database: Database

    def confirmed(self, job: ClaimedJob, parcel: Parcel, by: str, words: str) -> Outcome:
        """The archive has it."""

        found = Moved(parcel.delivery_id, DeliveryEvent.FIND, "confirmed_at", {"confirmed_by": by})
        return Outcome(job, effect=found, detail=words, parcel=parcel)

    def missing(self, job: ClaimedJob, parcel: Parcel, fact: str) -> Outcome:
        """Success was said and the instance is not there: send it again, but not for ever."""
        with self.database.read() as conn:
            sent = times_queued(conn, JobKind.DELIVER, parcel.delivery_id)
        words = f"{self.archive.remote}: said success {sent} time(s), {fact}"
        if sent >= _SEND_AT_MOST:
            return Outcome(
                job,
                error=KeepsNothing(f"{words}; look into its log"),
                on_failure=self._parked(parcel, words),
                parcel=parcel,
            )

        def send_again(conn: Connection, now: datetime) -> None:
            close_items(conn, parcel.delivery_id)
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

        rings = ((JobKind.DELIVER, job.lane),)
        return Outcome(job, effect=send_again, detail=f"{fact}; sent again", rings=rings)

    def unproven(self, job: ClaimedJob, parcel: Parcel, error: NodeError) -> Outcome:
        """The archive did not say, or said no; where that is final, a person decides."""
        return Outcome(job, error=error, on_failure=self._parked(parcel, str(error)), parcel=parcel)

    def _parked(self, parcel: Parcel, words: str) -> Effect:
        def park(conn: Connection, now: datetime) -> None:
            close_items(conn, parcel.delivery_id)
            move_delivery(conn, parcel.delivery_id, DeliveryEvent.REFUSE, words=words)

        return park
