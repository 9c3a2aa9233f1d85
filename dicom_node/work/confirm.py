"""Ask a destination whether it really has what it said it stored: by what it lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from dicom_node.core import faults
from dicom_node.core.delivery import DeliveryState
from dicom_node.core.errors import NodeError, NotInArchive
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob
from dicom_node.store.results import Parcel, load_parcels
from dicom_node.work.outcome import Outcome
from dicom_node.work.proof import Proof

_INDEXED_WITHIN = timedelta(minutes=1)
"""Time after its success at which an archive that does not list an instance counts as not having it."""

Series = tuple[str, str]
"""Study Instance UID and Series Instance UID."""

Lists = Callable[[Mapping[Series, set[str]]], Mapping[Series, set[str] | NodeError]]
"""Asks an archive which of these SOP Instance UIDs it lists in their series; it may name others as well.
Raises NodeError if the archive answers nothing at all."""


def still_unproven(
    database: Database, claimed: Sequence[ClaimedJob]
) -> tuple[list[Outcome], list[tuple[ClaimedJob, Parcel]]]:
    """Part the jobs that have nothing left to prove from those to ask about."""
    faults.step("confirm.claimed")
    with database.read() as conn:
        parcels = load_parcels(conn, [job.delivery_id for job in claimed if job.delivery_id])
    pairs = [(job, parcels[job.delivery_id or 0]) for job in claimed]
    over = [
        Outcome(job, detail=f"is {parcel.state}", asked=False)
        for job, parcel in pairs
        if parcel.state is not DeliveryState.ACCEPTED
    ]
    return over, [(job, parcel) for job, parcel in pairs if parcel.state is DeliveryState.ACCEPTED]


@dataclass(frozen=True, slots=True)
class ConfirmByListing:
    """Handler for confirm jobs of one destination that is asked what it has (C-FIND, QIDO-RS).

    by  how, for the record: "find" or "qido".
    """

    proof: Proof
    by: str
    lists: Lists

    def __call__(self, claimed: Sequence[ClaimedJob]) -> Iterator[Outcome]:
        """One question for each series among the claimed."""
        over, asked = still_unproven(self.proof.database, claimed)
        yield from over
        if not asked:
            return
        wanted: defaultdict[Series, set[str]] = defaultdict(set)
        for _, parcel in asked:
            wanted[parcel.study_instance_uid, parcel.series_instance_uid].add(parcel.sop_instance_uid)
        try:
            listed = self.lists(wanted)
        except NodeError as error:
            yield from (self.proof.unproven(job, parcel, error) for job, parcel in asked)
            return
        faults.step("confirm.answered")
        for job, parcel in asked:
            yield self._outcome(job, parcel, listed[parcel.study_instance_uid, parcel.series_instance_uid])

    def _outcome(self, job: ClaimedJob, parcel: Parcel, there: set[str] | NodeError) -> Outcome:
        if isinstance(there, NodeError):
            return self.proof.unproven(job, parcel, there)
        if parcel.sop_instance_uid in there:
            return self.proof.confirmed(job, parcel, self.by, f"listed by {self.by}")
        if parcel.accepted_at is None or job.claimed_at - parcel.accepted_at < _INDEXED_WITHIN:
            remote = self.proof.archive.remote
            return self.proof.unproven(job, parcel, NotInArchive(f"{remote}; it may still be indexing"))
        return self.proof.missing(job, parcel, "lists nothing")
