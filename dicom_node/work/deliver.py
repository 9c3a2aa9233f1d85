"""Send results to one destination: one association for what is waiting, one outcome each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.delivery import DeliveryEvent, DeliveryState
from dicom_node.core.errors import FilePurged, Postponed
from dicom_node.core.job import JobKind
from dicom_node.network.line import Line
from dicom_node.network.requestor import RemoteAE
from dicom_node.network.scu import Outgoing, Sent, send_over
from dicom_node.store.database import Database
from dicom_node.store.files import Layout
from dicom_node.store.jobs import ClaimedJob, NewJob
from dicom_node.store.results import Parcel, load_parcels, move_delivery
from dicom_node.store.retention import purged_words
from dicom_node.store.scratch import Scratch
from dicom_node.work.outcome import Moved, Outcome

CONFIRM_ATTEMPTS = 20
"""Questions before giving up: with doubling delays up to an hour, about nine hours of a silent archive."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A destination and how its answers are proven."""

    remote: RemoteAE
    confirm: bool
    confirm_delay_s: float
    max_attempts: int
    linger_s: float = 0.0
    """Seconds that an association with it stays open after its last use."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Handler for deliver jobs of one destination."""

    archive: Archive
    line: Line
    """To the archive; what is kept open on it is let go of by the lane."""
    database: Database
    layout: Layout
    begun: Callable[[Sequence[Parcel]], None]
    """Hears what is about to be sent."""
    stopping: Callable[[], bool]
    """True once the process is to end: what was not begun is left for the next start."""
    scratch: Scratch = field(default_factory=Scratch)
    """Where results are read to."""

    def __call__(self, claimed: Sequence[ClaimedJob]) -> Iterator[Outcome]:
        """Send every parcel that the destination does not have yet."""
        faults.step("deliver.claimed")
        with self.database.read() as conn:
            parcels = load_parcels(conn, [job.delivery_id for job in claimed if job.delivery_id])
        waiting: list[tuple[ClaimedJob, Parcel]] = []
        for job in claimed:
            parcel = parcels[job.delivery_id or 0]
            if parcel.state is DeliveryState.QUEUED and parcel.purged_at is not None:
                yield self._gone(job, parcel, parcel.purged_at)
            elif parcel.state is DeliveryState.QUEUED:
                waiting.append((job, parcel))
            else:
                yield Outcome(job, detail=f"already {parcel.state}", asked=False)
        if not waiting:
            return
        self.begun([parcel for _, parcel in waiting])
        items = [
            Outgoing(
                path=self.layout.result(parcel.digest),
                sop_class_uid=parcel.sop_class_uid,
                sop_instance_uid=parcel.sop_instance_uid,
                transfer_syntax_uid=str(ExplicitVRLittleEndian),
                opened=self.scratch.open,
            )
            for _, parcel in waiting
        ]
        sending = send_over(self.line, items)
        with closing(sending):
            for number, (job, parcel) in enumerate(waiting):
                if self.stopping():
                    sending.close()
                    yield from (Outcome(left, error=Postponed()) for left, _ in waiting[number:])
                    return
                sent = next(sending)
                faults.step("deliver.sent")
                yield self._outcome(job, parcel, sent)

    def _gone(self, job: ClaimedJob, parcel: Parcel, purged_at: datetime) -> Outcome:
        words = purged_words("result", purged_at)

        def park(conn: Connection, now: datetime) -> None:
            move_delivery(conn, parcel.delivery_id, DeliveryEvent.REFUSE, words=words)

        return Outcome(job, error=FilePurged(words), on_failure=park, parcel=parcel)

    def _outcome(self, job: ClaimedJob, parcel: Parcel, sent: Sent) -> Outcome:
        accepted = Moved(
            parcel.delivery_id,
            DeliveryEvent.STORE,
            "accepted_at",
            {"status": sent.status, "words": sent.words},
            then=_confirm_job(job) if self.archive.confirm else None,
            then_after=timedelta(seconds=self.archive.confirm_delay_s),
        )

        def park(conn: Connection, now: datetime) -> None:
            move_delivery(
                conn, parcel.delivery_id, DeliveryEvent.REFUSE, status=sent.status, words=sent.words
            )

        return Outcome(
            job,
            error=sent.error,
            effect=accepted,
            on_failure=park,
            detail=sent.words,
            parcel=parcel,
            rings=((JobKind.CONFIRM, job.lane),) if self.archive.confirm else (),
        )


def _confirm_job(job: ClaimedJob) -> NewJob:
    return NewJob(
        kind=JobKind.CONFIRM,
        lane=job.lane,
        priority=job.priority,
        study_id=job.study_id,
        image_id=job.image_id,
        delivery_id=job.delivery_id,
        max_attempts=CONFIRM_ATTEMPTS,
    )
