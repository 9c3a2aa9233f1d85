"""Proof of delivery by storage commitment: ask, wait for the report, act upon it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.commitment import (
    CommitmentEvent,
    CommitmentState,
    Remedy,
    Report,
    Said,
    Step,
    next_step,
    reason_text,
    remedy_for,
)
from dicom_node.core.errors import (
    CommitmentDelayed,
    CommitmentRefused,
    NeverReported,
    NodeError,
    NotCommitted,
)
from dicom_node.core.job import JobKind
from dicom_node.network.commitment import INSTANCES_AT_MOST, TakeReport, request_commitment
from dicom_node.store.commitments import (
    close_items,
    give_up_unanswered,
    has_news,
    move_commitment,
    open_commitment,
    record_report,
    said_of,
)
from dicom_node.store.database import Database
from dicom_node.store.jobs import ClaimedJob
from dicom_node.store.process import Bells
from dicom_node.store.results import Parcel
from dicom_node.work.confirm import still_unproven
from dicom_node.work.outcome import Outcome, Wait
from dicom_node.work.proof import Proof

log = logging.getLogger(__name__)

_STAY_S = 2.0
"""Seconds an association stays open after the answer, for archives that report on it."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Makes the reports of archives durable, whichever association they come in on."""

    database: Database
    bells: Bells
    clock: Callable[[], datetime]

    def taker(self, senders: Collection[str]) -> TakeReport:
        """Takes what somebody reports who may speak for these destinations."""

        def take(report: Report) -> bool:
            faults.step("report.received")
            with self.database.write() as conn:
                recorded = record_report(conn, report, senders, self.clock())
                faults.step("report.recorded")
            faults.step("report.committed")
            if recorded is None:
                return False
            destination, failed = recorded
            self.bells.ring(JobKind.CONFIRM, destination)
            log.log(
                logging.WARNING if failed else logging.INFO,
                "storage commitment reported",
                extra={
                    "action": "commitment-reported",
                    "lane": destination,
                    "transaction": report.transaction_uid,
                    "status": f"{failed} not committed" if failed else "all committed",
                },
            )
            return True

        return take


@dataclass(frozen=True, slots=True)
class ConfirmByCommitment:
    """Handler for confirm jobs of one destination that commits to what it stores.

    Each claim looks at what the tables say and takes the next step; the time in between belongs to the
    archive, and whoever takes its report wakes the job.
    """

    proof: Proof
    reports: Reports
    timeout: timedelta

    def __call__(self, claimed: Sequence[ClaimedJob]) -> Iterator[Outcome]:
        """Act upon what was reported; ask about the rest, many instances in one transaction."""
        over, open_ = still_unproven(self.proof.database, claimed)
        yield from over
        said = self._said(open_)
        to_ask = []
        for job, parcel in open_:
            about = said.get(parcel.delivery_id, [])
            outcome = self._known(job, parcel, about, asked=False) or self._silence(job, parcel, about)
            if outcome is not None:
                yield replace(outcome, asked=False)
            else:
                to_ask.append((job, parcel))
        for start in range(0, len(to_ask), INSTANCES_AT_MOST):
            yield from self._ask(to_ask[start : start + INSTANCES_AT_MOST])

    def _known(self, job: ClaimedJob, parcel: Parcel, said: Sequence[Said], *, asked: bool) -> Outcome | None:
        """What follows from the tables; None if the archive has to be asked.

        asked  True if it was asked in this run of the job.
        """
        step = next_step(said, self.reports.clock(), self.timeout)
        if step is Step.CONFIRM:
            return self.proof.confirmed(job, parcel, "commitment", "the archive committed to it")
        if step is Step.REMEDY:
            return self._remedied(job, parcel, said[0].reason)
        if step is Step.WAIT:
            due = said[0].expires_at
            words = f"asked for storage commitment; the archive's report is due by {due:%H:%M:%SZ}"
            wait = Wait(due, counted=asked)
            return Outcome(job, wait=wait, came=self._news(parcel), detail=words)
        return None

    def _remedied(self, job: ClaimedJob, parcel: Parcel, reason: int | None) -> Outcome | None:
        remote, remedy = self.proof.archive.remote, remedy_for(reason)
        words = f"storage commitment failed, {reason_text(reason)}"
        if remedy is Remedy.SEND_AGAIN:
            return self.proof.missing(job, parcel, words)
        if remedy is Remedy.PARK:
            error = NotCommitted(f"{remote}: {words}; its log says why, then `emode jobs retry` sends again")
            return self.proof.unproven(job, parcel, error)
        # Closed ahead of the outcome: killed in between, the job asks anew, which is what it is to do.
        with self.proof.database.write() as conn:
            close_items(conn, parcel.delivery_id)
        if remedy is Remedy.ASK_ANEW and job.attempts < job.max_attempts:
            return None
        return self.proof.unproven(job, parcel, CommitmentDelayed(f"{remote}: {words}"))

    def _silence(self, job: ClaimedJob, parcel: Parcel, said: Sequence[Said]) -> Outcome | None:
        """The end, if the archive took the question again and again and no attempt is left to hear it."""
        unanswered = sum(
            each.transaction in (CommitmentState.ASKED, CommitmentState.EXPIRED) for each in said
        )
        if not unanswered or job.attempts < job.max_attempts:
            return None
        remote = self.proof.archive.remote
        words = (
            f"{remote}: asked {unanswered} time(s), no report came; see that it can call us as "
            f"{remote.calling_ae_title}, or set `confirm: find` for it (`emode probe {remote.name}`)"
        )
        return self.proof.unproven(job, parcel, NeverReported(words))

    def _ask(self, asked: Sequence[tuple[ClaimedJob, Parcel]]) -> Iterator[Outcome]:
        """One transaction. It is on record before the archive hears of it."""
        remote, database, clock = self.proof.archive.remote, self.proof.database, self.reports.clock
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        ids = [parcel.delivery_id for _, parcel in asked]
        now = clock()
        with database.write() as conn:
            give_up_unanswered(conn, remote.name, now)
            commitment = open_commitment(
                conn, remote.name, transaction_uid, ids, now=now, expires_at=now + self.timeout
            )
        faults.step("commit.intended")
        error: NodeError | None = None
        try:
            request_commitment(
                remote,
                transaction_uid,
                [(parcel.sop_class_uid, parcel.sop_instance_uid) for _, parcel in asked],
                self.reports.taker({remote.name}),
                stay_s=min(_STAY_S, self.timeout.total_seconds() / 2),
                enough=lambda: self._heard_of(ids[0]),
            )
        except NodeError as failure:
            error = failure
        faults.step("commit.asked")
        with database.write() as conn:
            if error is None:
                move_commitment(conn, commitment, CommitmentEvent.TAKE, clock())
            elif isinstance(error, CommitmentRefused | CommitmentDelayed):
                move_commitment(conn, commitment, CommitmentEvent.REFUSE, clock(), str(error))
        log.info(
            "storage commitment asked",
            extra={
                "action": "commitment-asked",
                "lane": remote.name,
                "transaction": transaction_uid,
                "count": len(asked),
                "code": error.code if error else None,
            },
        )
        said = self._said(asked)
        for job, parcel in asked:
            outcome = self._known(job, parcel, said.get(parcel.delivery_id, []), asked=True)
            if outcome is None:
                why = error or CommitmentDelayed(f"{remote}: it has to be asked anew")
                outcome = replace(self.proof.unproven(job, parcel, why), came=self._news(parcel))
            yield outcome

    def _said(self, asked: Sequence[tuple[ClaimedJob, Parcel]]) -> dict[int, list[Said]]:
        with self.proof.database.read() as conn:
            return said_of(conn, [parcel.delivery_id for _, parcel in asked])

    def _heard_of(self, delivery_id: int) -> bool:
        with self.proof.database.read() as conn:
            return has_news(conn, delivery_id)

    def _news(self, parcel: Parcel) -> Callable[[Connection], bool]:
        return lambda conn: has_news(conn, parcel.delivery_id)
