"""From a spooled object to a durable row: what has to be true before a C-STORE is answered 0000."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.errors import ObjectTooLarge, StorageFull, UidMismatch
from dicom_node.core.identity import check_received_uid
from dicom_node.core.image import Arrival, ImageHeader
from dicom_node.core.job import JobKind
from dicom_node.core.rules import Choice, Route, choose_route
from dicom_node.dicom.gate import judge_header
from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import dataset_offset
from dicom_node.dicom.skip import Skip, SkipCode
from dicom_node.store.database import Database
from dicom_node.store.files import Layout, digest_from, place_file, sync_file
from dicom_node.store.images import Novelty, Receipt, is_worth_another_try, record_arrival
from dicom_node.store.jobs import NewJob, enqueue
from dicom_node.store.process import Bells
from dicom_node.store.results import names_result
from dicom_node.store.room import DiskRoom

log = logging.getLogger(__name__)

INFER_LANE = "images"
"""All images wait in one lane: the worker takes them across studies and routes, by priority."""


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """What is refused at the door."""

    object_bytes: int
    infer_max_attempts: int


@dataclass(frozen=True, slots=True)
class Reception:
    """Makes received objects durable."""

    database: Database
    layout: Layout
    bells: Bells
    routes: tuple[Route, ...]
    limits: ReceiveLimits
    room: DiskRoom
    clock: Callable[[], datetime]

    def take(self, spooled: Path, arrival: Arrival, *, sop_class_uid: str, sop_instance_uid: str) -> Receipt:
        """File, then row, then return: after that the object survives a power cut.

        Raises NodeError with the status to answer; nothing is kept then.
        """
        try:
            receipt = self._take(spooled, arrival, sop_class_uid, sop_instance_uid)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"{error.strerror}; make room on the data disk") from error
            raise
        self.bells.ring(JobKind.INFER, INFER_LANE)
        return receipt

    def _take(self, spooled: Path, arrival: Arrival, sop_class_uid: str, sop_instance_uid: str) -> Receipt:
        faults.step("receive.spooled")
        size = spooled.stat().st_size
        if size > self.limits.object_bytes:
            raise ObjectTooLarge(f"{size} bytes; limits.object_mib allows {self.limits.object_bytes} bytes")
        self.room.require()
        check_received_uid("Affected SOP Instance UID", sop_instance_uid)
        header = read_header(spooled)
        if (header.sop_class_uid, header.sop_instance_uid) != (sop_class_uid, sop_instance_uid):
            raise UidMismatch(
                f"command says {sop_class_uid} {sop_instance_uid}, "
                f"data set says {header.sop_class_uid} {header.sop_instance_uid}"
            )
        choice, skip = judge_arrival(self.routes, header, arrival)
        # The digest leaves the file meta group out: it holds who wrote the file, not what is in it.
        digest, _ = digest_from(spooled, dataset_offset(spooled), header.transfer_syntax_uid)
        sync_file(spooled)
        faults.step("receive.synced")
        now = self.clock()
        with self.database.write() as conn:
            skip = skip or _made_here(conn, header)
            place_file(spooled, self.layout.source(digest))
            faults.step("receive.placed")
            receipt = record_arrival(
                conn,
                header,
                arrival,
                route=choice.route.name if choice.route else "",
                digest=digest,
                size_bytes=size,
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
                    max_attempts=self.limits.infer_max_attempts,
                )
                enqueue(conn, job, now)
            faults.step("receive.recorded")
        faults.step("receive.committed")
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
        return receipt


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
