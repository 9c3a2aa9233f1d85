"""What may be purged, what holds the rest back, and the purge itself: rows first, then files.

A row says that its file is gone before the file goes, in a transaction of its own. A kill between the two
leaves a file that no row needs, which the sweep removes; never a row that claims a file which is not there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, not_, or_, select, update

from dicom_node.core import faults
from dicom_node.core.delivery import DeliveryState
from dicom_node.core.job import JobKind, JobState
from dicom_node.core.retention import Hold, RetentionPolicy
from dicom_node.core.study import STUDY_TRANSITIONS, StudyEvent, StudyState
from dicom_node.store.files import Layout
from dicom_node.store.images import Decision, is_source
from dicom_node.store.results import is_result
from dicom_node.store.schema import deliveries, image_results, images, jobs, results, studies

StoredFile = tuple[str, str]
"""(kind, digest), as `Layout.stored` names them."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Studies whose files must stay, for one reason."""

    reason: str
    sentence: str
    studies: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The local copies in numbers."""

    studies: int
    size_bytes: int
    held_back: tuple[HeldBack, ...]


def purged_words(what: str, purged_at: datetime) -> str:
    """The detail of a FilePurged error."""
    day = purged_at.date().isoformat()
    return f"{what}, purged on {day}; send the image again: what is missing is then made anew"


def kept_bytes(conn: Connection) -> int:
    """Size of all local copies; rows that share a file count once."""
    total = 0
    for table in (images, results):
        once = select(table.c.digest, table.c.size_bytes).where(table.c.purged_at.is_(None)).distinct()
        total += conn.scalar(select(func.coalesce(func.sum(once.subquery().c.size_bytes), 0))) or 0
    return total


def kept_by_study(conn: Connection, study_ids: Collection[int]) -> dict[int, int]:
    """Size of the local copies of each of these studies, in bytes."""
    sizes: dict[int, int] = defaultdict(int)
    mine = images.c.study_id.in_(study_ids)
    for query in (_sources(), _results()):
        # Inside, or SQLite would first collect the files of every study there is.
        files = query.where(mine).subquery()
        for study_id, size in conn.execute(
            select(files.c.study_id, func.sum(files.c.size_bytes)).group_by(files.c.study_id)
        ):
            sizes[study_id] += size
    return sizes


def holds_by_study(conn: Connection, study_ids: Collection[int], policy: RetentionPolicy) -> dict[int, Hold]:
    """What holds each of these studies back; those that may go are not in it."""
    rows = conn.execute(select(studies.c.id, _hold(policy)).where(studies.c.id.in_(study_ids)))
    return {study_id: Hold(hold) for study_id, hold in rows if hold is not None}


def kept(conn: Connection, policy: RetentionPolicy) -> Kept:
    """All local copies, and what is held back from purging."""
    files = _sources().union_all(_results()).subquery()
    sizes = (
        select(files.c.study_id, func.sum(files.c.size_bytes).label("size"))
        .group_by(files.c.study_id)
        .subquery()
    )
    counted = conn.execute(
        select(_hold(policy).label("hold"), func.count(), func.sum(sizes.c.size))
        .select_from(studies)
        .join(sizes, sizes.c.study_id == studies.c.id)
        .group_by("hold")
    ).all()
    found = {hold: (count, size) for hold, count, size in counted}
    return Kept(
        studies=sum(count for count, _ in found.values()),
        size_bytes=kept_bytes(conn),
        held_back=tuple(
            HeldBack(hold.value, hold.sentence, *found[hold.value]) for hold in Hold if hold.value in found
        ),
    )


def purgeable(conn: Connection, policy: RetentionPolicy, *, before: datetime | None, limit: int) -> list[int]:
    """Studies that nothing holds back and whose last image came before a time, oldest first."""
    query = select(studies.c.id).where(_has_files(), _hold(policy).is_(None))
    if before is not None:
        query = query.where(studies.c.last_received_at <= before)
    return list(conn.scalars(query.order_by(studies.c.last_received_at, studies.c.id).limit(limit)))


def purge_study(conn: Connection, study_id: int, policy: RetentionPolicy, now: datetime) -> list[StoredFile]:
    """Write down that a study's files are gone; return those that no row needs any more.

    Nothing happens if something holds the study back by now.
    """
    still = select(studies.c.id).where(studies.c.id == study_id, _has_files(), _hold(policy).is_(None))
    if conn.scalar(still) is None:
        return []
    mine = select(images.c.id).where(images.c.study_id == study_id)
    elsewhere = (
        select(image_results.c.result_id)
        .join(images, images.c.id == image_results.c.image_id)
        .where(images.c.study_id != study_id, images.c.purged_at.is_(None))
    )
    made = (
        select(results.c.id)
        .join(image_results, image_results.c.result_id == results.c.id)
        .where(image_results.c.image_id.in_(mine), results.c.id.not_in(elsewhere))
    )
    files = [
        *(("source", d) for d in conn.scalars(_unpurged(images.c.digest).where(images.c.id.in_(mine)))),
        *(("result", d) for d in conn.scalars(_unpurged(results.c.digest).where(results.c.id.in_(made)))),
    ]
    for table, ids in ((images, mine), (results, made)):
        gone = update(table).where(table.c.id.in_(ids), table.c.purged_at.is_(None))
        conn.execute(gone.values(purged_at=now))
    after = STUDY_TRANSITIONS[StudyState.SETTLED, StudyEvent.PURGE]
    conn.execute(update(studies).where(studies.c.id == study_id).values(state=after, purged_at=now))
    return list(dict.fromkeys(files))


def remove_unneeded(conn: Connection, layout: Layout, files: Iterable[StoredFile]) -> int:
    """Unlink the files that no row needs; return how many there were.

    In a write transaction: a file gets its name under the same lock as its row (`store.files.place_file`),
    so that one which arrives again at this moment cannot be taken away.
    """
    count = 0
    for kind, digest in files:
        path = layout.source(digest) if kind == "source" else layout.result(digest)
        if not is_needed(conn, kind, digest) and path.exists():
            path.unlink()
            faults.step("sweep.unlinked")
            count += 1
    return count


def is_needed(conn: Connection, kind: str, digest: str) -> bool:
    """Does a row need this file?"""
    return is_source(conn, digest) if kind == "source" else is_result(conn, digest)


def is_purged(conn: Connection, kind: str, digest: str) -> bool:
    """Does a row say that this file is gone?"""
    table = images if kind == "source" else results
    purged = select(table.c.id).where(table.c.digest == digest, table.c.purged_at.is_not(None))
    return conn.scalar(purged.limit(1)) is not None


def _unpurged(column: Any) -> Select[Any]:
    return select(column).where(column.table.c.purged_at.is_(None)).distinct()


def _sources() -> Select[Any]:
    """(study, digest, size) of every source file that is kept."""
    return (
        select(images.c.study_id, images.c.digest, images.c.size_bytes)
        .where(images.c.purged_at.is_(None))
        .distinct()
    )


def _results() -> Select[Any]:
    """(study, digest, size) of every result file that is kept."""
    return (
        select(images.c.study_id, results.c.digest, results.c.size_bytes)
        .join(image_results, image_results.c.image_id == images.c.id)
        .join(results, results.c.id == image_results.c.result_id)
        .where(results.c.purged_at.is_(None))
        .distinct()
    )


def _has_files() -> ColumnElement[bool]:
    mine = select(images.c.id).where(images.c.study_id == studies.c.id)
    source = mine.where(images.c.purged_at.is_(None)).correlate(studies).exists()
    result = (
        mine.join(image_results, image_results.c.image_id == images.c.id)
        .join(results, results.c.id == image_results.c.result_id)
        .where(results.c.purged_at.is_(None))
        .correlate(studies)
        .exists()
    )
    return or_(source, result)


def _hold(policy: RetentionPolicy) -> ColumnElement[Any]:
    """The first reason for which a study's files must stay, or NULL: the one home of that question."""
    ours = images.c.study_id == studies.c.id

    def work(*which: ColumnElement[bool]) -> Select[Any]:
        # From the study's images to their jobs, and so with `way`: as a join SQLite may begin with all jobs
        # of a kind, and all deliveries in a state.
        found = select(jobs.c.id).where(jobs.c.image_id == images.c.id, *which).correlate(images).exists()
        return select(images.c.id).where(ours, found)

    def way(*which: ColumnElement[bool]) -> Select[Any]:
        of_result = deliveries.c.result_id == image_results.c.result_id
        found = select(deliveries.c.id).where(of_result, *which).correlate(image_results).exists()
        linked = select(images.c.id).join(image_results, image_results.c.image_id == images.c.id)
        return linked.where(ours, found)

    later = jobs.alias()
    tried_again = (
        select(later.c.id)
        .where(later.c.image_id == jobs.c.image_id, later.c.kind == JobKind.INFER, later.c.id > jobs.c.id)
        .correlate(jobs)
        .exists()
    )
    enough = and_(
        deliveries.c.state == DeliveryState.ACCEPTED, deliveries.c.destination.in_(policy.accepted_is_enough)
    )
    asked = {
        Hold.FAILED: work(jobs.c.kind == JobKind.INFER, jobs.c.state == JobState.FAILED, not_(tried_again)),
        Hold.UNDECIDED: select(images.c.id).where(ours, images.c.decision == Decision.PENDING),
        Hold.PARKED: way(deliveries.c.state.in_((DeliveryState.PARKED,))),
        Hold.UNCONFIRMED: way(deliveries.c.state != DeliveryState.CONFIRMED, not_(enough)),
        Hold.WAITING: work(jobs.c.state.in_((JobState.HELD, JobState.WAITING, JobState.RUNNING))),
    }
    return case(
        (studies.c.state == StudyState.RECEIVING, Hold.RECEIVING.value),
        *((query.correlate(studies).exists(), hold.value) for hold, query in asked.items()),
    )
