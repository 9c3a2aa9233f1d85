"""From a spooled object to a durable row: what has to be true before a C-STORE is answered 0000."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.errors import StorageFull, UidMismatch
from dicom_node.core.identity import check_received_uid
from dicom_node.core.image import Arrival, ImageHeader
from dicom_node.core.job import JobKind
from dicom_node.core.rules import Choice, Route, choose_route
from dicom_node.dicom.gate import judge_header
from dicom_node.dicom.header import header_from, read_header
from dicom_node.dicom.skip import Skip, SkipCode
from dicom_node.network.scp import Received, Taken
from dicom_node.network.spool import Spool
from dicom_node.store.files import Layout, move_file
from dicom_node.store.images import Novelty, Receipt, is_worth_another_try, record_arrival
from dicom_node.store.jobs import NewJob, enqueue
from dicom_node.store.process import Bells
from dicom_node.store.results import names_result
from dicom_node.store.together import Together

log = logging.getLogger(__name__)

INFER_LANE = "images"
"""All images wait in one lane: the worker takes them across studies and routes, by priority."""


@dataclass(frozen=True, slots=True)
class Reception:
    """Makes received objects durable."""

    together: Together
    """One for all associations of the process."""
    layout: Layout
    bells: Bells
    routes: tuple[Route, ...]
    infer_max_attempts: int
    clock: Callable[[], datetime]

    def take(self, received: Received) -> Taken:
        """File, then row, then return: after that the object survives a power cut.

        Raises NodeError with the status to answer; nothing is kept then.
        """
        try:
            return self._take(received)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"{error.strerror}; make room on the data disk") from error
            raise

    def _take(self, received: Received) -> Taken:
        faults.step("receive.spooled")
        spool, arrival = received.spool, received.arrival
        check_received_uid("Affected SOP Instance UID", received.sop_instance_uid)
        # The disk has begun to write; the header is read meanwhile.
        header = _header_of(spool)
        if (header.sop_class_uid, header.sop_instance_uid) != (
            received.sop_class_uid,
            received.sop_instance_uid,
        ):
            raise UidMismatch(
                f"command says {received.sop_class_uid} {received.sop_instance_uid}, "
                f"data set says {header.sop_class_uid} {header.sop_instance_uid}"
            )
        choice, skip = judge_arrival(self.routes, header, arrival)
        spool.sync()
        faults.step("receive.synced")
        receipt, skip = self.together.write(lambda conn: self._record(conn, received, header, choice, skip))
        faults.step("receive.committed")
        return Taken(
            header.study_instance_uid, lambda: self._announce(header, arrival, choice, receipt, skip)
        )

    def _announce(
        self, header: ImageHeader, arrival: Arrival, choice: Choice, receipt: Receipt, skip: Skip | None
    ) -> None:
        """To the worker, and in the log."""
        self.bells.ring(JobKind.INFER, INFER_LANE)
        log.info(
            "image received",
            extra={
                "action": "image-received",
                "instance": header.sop_instance_uid,
                "study": header.study_instance_uid,
                "route": choice.route.name if choice.route else "none",
                "peer": arrival.calling_ae_title,
                "decision": receipt.novelty.value,
                "code": skip.code.value if skip else None,
            },
        )

    def _record(
        self, conn: Connection, received: Received, header: ImageHeader, choice: Choice, skip: Skip | None
    ) -> tuple[Receipt, Skip | None]:
        """Name the file and write its rows: one transaction, which may be shared with other arrivals."""
        now = self.clock()
        skip = skip or _made_here(conn, header)
        digest = received.spool.digest
        # In the transaction that records it, or the sweep could take it for garbage.
        move_file(received.spool.path, self.layout.source(digest))
        faults.step("receive.placed")
        receipt = record_arrival(
            conn,
            header,
            received.arrival,
            route=choice.route.name if choice.route else "",
            digest=digest,
            size_bytes=received.spool.size,
            skip=skip,
            now=now,
        )
        wanted = receipt.novelty is not Novelty.DUPLICATE or is_worth_another_try(conn, receipt.image_id)
        if choice.route is not None and skip is None and wanted:
            job = NewJob(
                kind=JobKind.INFER,
                lane=INFER_LANE,
                priority=choice.route.priority,
                study_id=receipt.study_id,
                image_id=receipt.image_id,
                max_attempts=self.infer_max_attempts,
            )
            enqueue(conn, job, now)
        faults.step("receive.recorded")
        return receipt, skip


def _header_of(spool: Spool) -> ImageHeader:
    """From the bytes in memory, if these are enough and of the ordinary form; else from the file."""
    header = header_from(spool.beginning, spool.transfer_syntax_uid, is_whole=spool.is_all_beginning)
    return header or read_header(spool.path)


def _made_here(conn: Connection, header: ImageHeader) -> Skip | None:
    """What our own records say of an image that bears no mark of ours any more."""
    if names_result(conn, [header.sop_instance_uid]):
        return Skip(SkipCode.OWN_RESULT, "This node made an object with this SOP Instance UID")
    if names_result(conn, header.derived_from):
        return Skip(SkipCode.OWN_RESULT, "Its source image is a result of this node")
    return None


def judge_arrival(
    routes: tuple[Route, ...], header: ImageHeader, arrival: Arrival
) -> tuple[Choice, Skip | None]:
    """Choose the route and say what the header alone rules out."""
    choice = choose_route(routes, header, arrival)
    skip = judge_header(header)
    if skip is None and choice.route is None:
        why = "; ".join(f'route "{name}": {reason}' for name, reason in choice.passed_over)
        facts = why[:1].upper() + why[1:] if why else f"No route is called {arrival.called_ae_title}"
        skip = Skip(SkipCode.NOT_THIS_ROUTE, facts)
    return choice, skip
