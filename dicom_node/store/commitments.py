"""Transactions of storage commitment: written down before they are asked, kept when they are answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, insert, or_, select, update

from dicom_node.core.commitment import (
    COMMITMENT_TRANSITIONS,
    ITEM_TRANSITIONS,
    CommitmentEvent,
    CommitmentState,
    ItemEvent,
    ItemState,
    Report,
    Said,
    step_heard,
)
from dicom_node.core.errors import IllegalTransition
from dicom_node.core.job import JobKind
from dicom_node.store.jobs import wake
from dicom_node.store.schema import commitment_items, commitments, deliveries, results


def open_commitment(
    conn: Connection,
    destination: str,
    transaction_uid: str,
    delivery_ids: Sequence[int],
    *,
    now: datetime,
    expires_at: datetime,
) -> int:
    """Record the intent to ask a destination about these deliveries."""
    inserted = conn.execute(
        insert(commitments).values(
            destination=destination,
            transaction_uid=transaction_uid,
            state=CommitmentState.INTENDED,
            requested_at=now,
            expires_at=expires_at,
        )
    ).inserted_primary_key
    assert inserted is not None
    commitment_id = int(inserted[0])
    rows = [
        {"commitment_id": commitment_id, "delivery_id": delivery_id, "state": ItemState.PENDING}
        for delivery_id in delivery_ids
    ]
    conn.execute(insert(commitment_items), rows)
    return commitment_id


def move_commitment(
    conn: Connection, commitment_id: int, event: CommitmentEvent, now: datetime, words: str | None = None
) -> None:
    """Change a transaction as the table allows, or raise IllegalTransition."""
    for (before, known), after in COMMITMENT_TRANSITIONS.items():
        if known is not event:
            continue
        values: dict[str, Any] = {"state": after}
        if after is not before:
            values |= {"words": words}
            if after is not CommitmentState.ASKED:
                values |= {"ended_at": now}
        change = update(commitments).where(commitments.c.id == commitment_id, commitments.c.state == before)
        if conn.execute(change.values(**values)).rowcount == 1:
            return
    raise IllegalTransition(f"storage commitment {commitment_id} cannot {event}")


def give_up_unanswered(conn: Connection, destination: str, now: datetime) -> None:
    """Expire a destination's transactions that are overdue, or whose asking has not come to an end.

    Only whoever serves the destination's lane may call this: nobody else asks.
    """
    overdue = and_(commitments.c.state == CommitmentState.ASKED, commitments.c.expires_at <= now)
    left = select(commitments.c.id).where(
        commitments.c.destination == destination,
        or_(commitments.c.state == CommitmentState.INTENDED, overdue),
    )
    for commitment_id in conn.scalars(left).all():
        move_commitment(conn, commitment_id, CommitmentEvent.EXPIRE, now, "no report in time")


def said_of(conn: Connection, delivery_ids: Collection[int]) -> dict[int, list[Said]]:
    """What transactions have brought for each of these deliveries, the newest first, without closed ones."""
    rows = conn.execute(
        select(commitment_items, commitments.c.state.label("transaction"), commitments.c.expires_at)
        .join(commitments, commitments.c.id == commitment_items.c.commitment_id)
        .where(
            commitment_items.c.delivery_id.in_(delivery_ids),
            commitment_items.c.state != ItemState.CLOSED,
        )
        .order_by(commitments.c.id.desc())
    )
    said: dict[int, list[Said]] = defaultdict(list)
    for row in rows:
        said[row.delivery_id].append(
            Said(ItemState(row.state), row.failure_reason, CommitmentState(row.transaction), row.expires_at)
        )
    return said


def has_news(conn: Connection, delivery_id: int) -> bool:
    """Has a report said something of this delivery that its job has to act upon?

    Only what its next step acts upon: anything else would wake the job again and again.
    """
    return step_heard(said_of(conn, [delivery_id]).get(delivery_id, [])) is not None


def close_items(conn: Connection, delivery_id: int) -> None:
    """What was said of a delivery so far is acted upon."""
    _move_items(conn, commitment_items.c.delivery_id == delivery_id, ItemEvent.CLOSE)


def record_report(
    conn: Connection, report: Report, senders: Collection[str], now: datetime
) -> tuple[str, int] | None:
    """Write down what an archive reports and wake the jobs that wait for it.

    senders  the destinations that whoever reports may speak for.

    Returns (destination, instances it did not commit to), or None if no such transaction was asked of
    these destinations. A report that comes again changes nothing: the first one counts.
    An instance that was asked for and is not in the report counts as not committed.
    """
    row = conn.execute(
        select(commitments.c.id, commitments.c.destination).where(
            commitments.c.transaction_uid == report.transaction_uid,
            commitments.c.destination.in_(senders),
        )
    ).one_or_none()
    if row is None:
        return None
    move_commitment(conn, row.id, CommitmentEvent.REPORT, now)
    asked = conn.execute(
        select(commitment_items.c.delivery_id, results.c.sop_instance_uid)
        .join(deliveries, deliveries.c.id == commitment_items.c.delivery_id)
        .join(results, results.c.id == deliveries.c.result_id)
        .where(commitment_items.c.commitment_id == row.id)
    ).all()
    failed = 0
    for delivery_id, instance in asked:
        kept = instance in report.committed and instance not in report.failed
        failed += not kept
        _move_items(
            conn,
            and_(commitment_items.c.commitment_id == row.id, commitment_items.c.delivery_id == delivery_id),
            ItemEvent.COMMIT if kept else ItemEvent.FAIL,
            failure_reason=None if kept else report.failed.get(instance),
        )
    wake(conn, JobKind.CONFIRM, [each.delivery_id for each in asked], now, "the archive reported")
    return row.destination, failed


def _move_items(conn: Connection, which: ColumnElement[bool], event: ItemEvent, **values: Any) -> None:
    """Change those items for which the table knows the event; the others are left as they are."""
    before = [state for state, known in ITEM_TRANSITIONS if known is event]
    after = ITEM_TRANSITIONS[before[0], event]
    conn.execute(
        update(commitment_items)
        .where(which, commitment_items.c.state.in_(before))
        .values(state=after, **values)
    )
