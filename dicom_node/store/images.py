"""Received images and the studies they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, literal, or_, select, update

from dicom_node.core.image import Arrival, ImageHeader
from dicom_node.core.job import JobKind, JobState
from dicom_node.core.study import STUDY_TRANSITIONS, SettlePolicy, StudyEvent, StudyState, is_settled
from dicom_node.dicom.skip import Skip
from dicom_node.store.ready import Ready
from dicom_node.store.schema import UtcDateTime, images, jobs, studies


class Decision(StrEnum):
    """What the node makes of an image."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    SKIPPED = "skipped"


class Novelty(StrEnum):
    """What an arrival adds to what is already here."""

    NEW = "new"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"
    """Same SOP Instance UID, other bytes."""
    RETURNED = "returned"
    """The same bytes, after the local copy was purged."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The rows that now stand for an arrival."""

    image_id: int
    study_id: int
    study_instance_uid: str
    novelty: Novelty


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as later steps need it."""

    id: int
    study_id: int
    route: str
    sop_instance_uid: str
    digest: str
    purged_at: datetime | None


class _Known(NamedTuple):
    """The row of an image that was here before."""

    id: int
    study_id: int
    digest: str
    is_purged: bool
    revision: int
    arrivals: int


_KNOWN_IMAGE = Ready(
    select(
        images.c.id,
        images.c.study_id,
        images.c.digest,
        images.c.purged_at.is_not(None),
        images.c.revision,
        images.c.arrivals,
    ).where(images.c.route == bindparam("on_route"), images.c.sop_instance_uid == bindparam("uid"))
)
_FILE_IS_BACK = Ready(
    update(images)
    .where(images.c.digest == bindparam("file"), images.c.purged_at.is_not(None))
    .values(purged_at=None)
)
_ADD_IMAGE = Ready(
    insert(images),
    "study_id",
    "route",
    "sop_instance_uid",
    "sop_class_uid",
    "series_instance_uid",
    "transfer_syntax_uid",
    "instance_number",
    "digest",
    "size_bytes",
    "calling_ae_title",
    "called_ae_title",
    "address",
    "received_at",
    "decision",
    "skip_code",
    "skip_sentence",
    "decided_at",
    "purged_at",
)
_IMAGE = Ready(
    select(
        images.c.study_id,
        images.c.route,
        images.c.sop_instance_uid,
        images.c.digest,
        images.c.purged_at,
    ).where(images.c.id == bindparam("image"))
)
_DIGEST = Ready(select(images.c.digest).where(images.c.id == bindparam("image")))
_DECIDE = Ready(
    update(images)
    .where(images.c.id == bindparam("image"))
    .values(
        decision=bindparam("verdict"),
        skip_code=bindparam("code"),
        skip_sentence=bindparam("sentence"),
        decided_at=bindparam("at", type_=UtcDateTime()),
    )
)
_KNOWN_STUDY = Ready(
    select(studies.c.id, studies.c.state).where(studies.c.study_instance_uid == bindparam("uid"))
)
_ADD_STUDY = Ready(
    insert(studies),
    "study_instance_uid",
    "accession_number",
    "state",
    "first_received_at",
    "last_received_at",
)
_STUDY_GREW = Ready(
    update(studies)
    .where(studies.c.id == bindparam("study"))
    .values(state=bindparam("now_is"), last_received_at=bindparam("at"))
)
_STUDY_REOPENED = Ready(
    update(studies)
    .where(studies.c.id == bindparam("study"))
    .values(
        state=bindparam("now_is"),
        last_received_at=bindparam("at"),
        # The longest wait counts from the first image of this round, or a late image would settle at once.
        first_received_at=bindparam("at"),
        revision=studies.c.revision + 1,
        settled_at=None,
        purged_at=None,
    )
)


def record_arrival(
    conn: Connection,
    header: ImageHeader,
    arrival: Arrival,
    *,
    route: str,
    digest: str,
    size_bytes: int,
    skip: Skip | None,
    now: datetime,
) -> Receipt:
    """Write down one received object. The caller's commit is what a 0000 status stands for."""
    row = _KNOWN_IMAGE.run(conn, {"on_route": route, "uid": header.sop_instance_uid}).fetchone()
    known = _Known(*row) if row is not None else None
    if known is not None and known.digest == digest and not known.is_purged:
        conn.execute(update(images).where(images.c.id == known.id).values(arrivals=known.arrivals + 1))
        return Receipt(known.id, known.study_id, header.study_instance_uid, Novelty.DUPLICATE)

    study_id = _arrive_at_study(conn, header, now)
    content: dict[str, Any] = {
        "study_id": study_id,
        "sop_class_uid": header.sop_class_uid,
        "series_instance_uid": header.series_instance_uid,
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "instance_number": header.instance_number,
        "digest": digest,
        "size_bytes": size_bytes,
        "calling_ae_title": arrival.calling_ae_title,
        "called_ae_title": arrival.called_ae_title,
        "address": arrival.address,
        "received_at": now,
        "decision": Decision.SKIPPED if skip else Decision.PENDING,
        "skip_code": skip and skip.code,
        "skip_sentence": skip and skip.sentence,
        "decided_at": now if skip else None,
        "purged_at": None,
    }
    # The file is there again for every row that shares it.
    _FILE_IS_BACK.run(conn, {"file": digest})
    if known is not None:
        returned = known.digest == digest
        counts = {"revision": known.revision + (not returned), "arrivals": known.arrivals + 1}
        conn.execute(update(images).where(images.c.id == known.id).values(**content, **counts))
        novelty = Novelty.RETURNED if returned else Novelty.REPLACED
        return Receipt(known.id, study_id, header.study_instance_uid, novelty)
    identity = {"route": route, "sop_instance_uid": header.sop_instance_uid}
    image_id = _ADD_IMAGE.run(conn, identity | content).lastrowid
    assert image_id is not None
    return Receipt(image_id, study_id, header.study_instance_uid, Novelty.NEW)


def is_worth_another_try(conn: Connection, image_id: int) -> bool:
    """Was a result of this image given up, or judged away, so that sending it again asks for a new try?"""
    last = conn.scalar(
        select(jobs.c.state)
        .where(jobs.c.image_id == image_id, jobs.c.kind == JobKind.INFER)
        .order_by(jobs.c.id.desc())
        .limit(1)
    )
    decision = conn.scalar(select(images.c.decision).where(images.c.id == image_id))
    given_up = last in (JobState.FAILED, JobState.CANCELLED)
    return given_up or (last == JobState.DONE and decision == Decision.SKIPPED)


def holds_digest(conn: Connection, image_id: int, digest: str) -> bool:
    """Does this image still have the content with this digest, or was it replaced meanwhile?"""
    found = _DIGEST.run(conn, {"image": image_id}).fetchone()
    return found is not None and found[0] == digest


def load_image(conn: Connection, image_id: int) -> StoredImage:
    """One image by its row."""
    row = _IMAGE.row(conn, {"image": image_id})
    if row is None:
        raise LookupError(f"image {image_id}")
    return StoredImage(image_id, *row)


def decide(conn: Connection, image_id: int, skip: Skip | None, now: datetime) -> None:
    """Record what the intake gate said of the pixels."""
    verdict = {
        "image": image_id,
        "verdict": Decision.SKIPPED if skip else Decision.ACCEPTED,
        "code": skip and skip.code,
        "sentence": skip and skip.sentence,
        "at": now,
    }
    _DECIDE.run(conn, verdict)


def studies_due(conn: Connection, policy: SettlePolicy, now: datetime) -> list[int]:
    """The studies that have been quiet, or open, for long enough to settle; those of the future too.

    Their time was taken from a clock that has been set back since, and has to be mended first.
    """
    receiving = conn.execute(select(studies).where(studies.c.state == StudyState.RECEIVING)).all()
    return [
        r.id
        for r in receiving
        if max(r.first_received_at, r.last_received_at) > now
        or is_settled(r.first_received_at, r.last_received_at, now, policy)
    ]


def mend_arrivals(conn: Connection, now: datetime) -> int:
    """Studies that received images "later than now" (the clock was set back) did so now; how many."""
    future = or_(studies.c.last_received_at > now, studies.c.first_received_at > now)
    change = update(studies).where(studies.c.state == StudyState.RECEIVING, future)
    return conn.execute(
        change.values(
            first_received_at=func.min(studies.c.first_received_at, literal(now, UtcDateTime)),
            last_received_at=func.min(studies.c.last_received_at, literal(now, UtcDateTime)),
        )
    ).rowcount


def settle_due(conn: Connection, policy: SettlePolicy, now: datetime) -> list[int]:
    """Settle every study that is due; return their rows."""
    mend_arrivals(conn, now)
    due = studies_due(conn, policy, now)
    if due:
        after = STUDY_TRANSITIONS[StudyState.RECEIVING, StudyEvent.SETTLE]
        for study_id in due:
            change = update(studies).where(studies.c.id == study_id)
            conn.execute(change.values(state=after, settled_at=now))
    return due


def is_source(conn: Connection, digest: str) -> bool:
    """Does a row need the file of the received object with this digest?"""
    needing = select(images.c.id).where(images.c.digest == digest, images.c.purged_at.is_(None))
    return conn.scalar(needing.limit(1)) is not None


def study_is_settled(conn: Connection, study_id: int) -> bool:
    """Has the study settled, and nothing new come since?"""
    return conn.scalar(select(studies.c.state).where(studies.c.id == study_id)) == StudyState.SETTLED


def _arrive_at_study(conn: Connection, header: ImageHeader, now: datetime) -> int:
    known = _KNOWN_STUDY.run(conn, {"uid": header.study_instance_uid}).fetchone()
    if known is None:
        study = {
            "study_instance_uid": header.study_instance_uid,
            "accession_number": header.accession_number[:16],
            "state": StudyState.RECEIVING,
            "first_received_at": now,
            "last_received_at": now,
        }
        added = _ADD_STUDY.run(conn, study).lastrowid
        assert added is not None
        return added
    study_id, state = known
    after = STUDY_TRANSITIONS[StudyState(state), StudyEvent.ARRIVE]
    change = _STUDY_GREW if state == StudyState.RECEIVING else _STUDY_REOPENED
    change.run(conn, {"study": study_id, "now_is": after, "at": now})
    return int(study_id)
