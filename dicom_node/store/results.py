"""Emitted results and their way to each destination."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Update, bindparam, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from dicom_node.core.delivery import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState
from dicom_node.core.errors import IllegalTransition
from dicom_node.store.ready import Ready
from dicom_node.store.schema import deliveries, image_results, results


@dataclass(frozen=True, slots=True)
class NewResult:
    """What is known of a result whose file is already in place."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    bundle: str
    digest: str
    size_bytes: int
    pane: int
    steps: Mapping[str, float]
    dated_at: datetime | None = None
    """Content Date and Time."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One result on its way to one destination."""

    delivery_id: int
    state: DeliveryState
    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    digest: str
    accepted_at: datetime | None
    purged_at: datetime | None


@dataclass(frozen=True, slots=True)
class KnownResult:
    """A result that was emitted before."""

    id: int
    dated_at: datetime | None
    purged_at: datetime | None


# Statements of the hot ways are built once: SQLAlchemy takes longer to build one than SQLite to run it.
_PARCELS = (
    select(
        deliveries.c.id,
        deliveries.c.state,
        results.c.sop_instance_uid,
        results.c.sop_class_uid,
        results.c.series_instance_uid,
        results.c.digest,
        results.c.study_instance_uid,
        deliveries.c.accepted_at,
        results.c.purged_at,
    )
    .join(results, results.c.id == deliveries.c.result_id)
    .where(deliveries.c.id.in_(bindparam("ids", expanding=True)))
)
_NAMES_RESULT = Ready(select(results.c.id).where(results.c.sop_instance_uid == bindparam("uid")))
_KNOWN_RESULT = Ready(
    select(results.c.id, results.c.dated_at, results.c.purged_at).where(
        results.c.sop_instance_uid == bindparam("uid")
    )
)
_ADD_RESULT = Ready(
    insert(results),
    "sop_instance_uid",
    "sop_class_uid",
    "study_instance_uid",
    "series_instance_uid",
    "bundle",
    "digest",
    "size_bytes",
    "created_at",
    "steps",
    "dated_at",
)
_LINK = Ready(insert(image_results).on_conflict_do_nothing(), "image_id", "result_id", "pane")
_ADD_DELIVERY = Ready(
    insert(deliveries).on_conflict_do_nothing(
        index_elements=[deliveries.c.result_id, deliveries.c.destination]
    ),
    "result_id",
    "destination",
    "state",
)


def known_result(conn: Connection, sop_instance_uid: str) -> KnownResult | None:
    """The result with this UID, if it was emitted before."""
    row = _KNOWN_RESULT.row(conn, {"uid": sop_instance_uid})
    return KnownResult(*row) if row is not None else None


def has_way_to_go(conn: Connection, result_id: int, destinations: Collection[str]) -> bool:
    """Is there a destination that the result's file still has to reach?"""
    ways = conn.execute(
        select(deliveries.c.destination, deliveries.c.state).where(deliveries.c.result_id == result_id)
    ).all()
    open_ways = {DeliveryState.QUEUED, DeliveryState.PARKED}
    return not set(destinations) <= {way.destination for way in ways} or any(
        way.state in open_ways for way in ways
    )


def names_result(conn: Connection, sop_instance_uids: Iterable[str]) -> bool:
    """Is one of these a result that this node emitted?"""
    return any(_NAMES_RESULT.run(conn, {"uid": uid}).fetchone() is not None for uid in sop_instance_uids)


def add_result(conn: Connection, image_id: int, result: NewResult, now: datetime) -> int:
    """Record a result of an image.

    The first file under a UID stays, for content never changes (PS3.5 9), unless it was purged: one made
    anew takes its place. It is the same to the byte where source and program are still the same.
    """
    known = known_result(conn, result.sop_instance_uid)
    if known is not None and known.purged_at is not None:
        values = {"digest": result.digest, "size_bytes": result.size_bytes, "purged_at": None}
        conn.execute(update(results).where(results.c.id == known.id).values(**values))
    if known is not None:
        result_id = known.id
    else:
        row = {
            "sop_instance_uid": result.sop_instance_uid,
            "sop_class_uid": result.sop_class_uid,
            "study_instance_uid": result.study_instance_uid,
            "series_instance_uid": result.series_instance_uid,
            "bundle": result.bundle,
            "digest": result.digest,
            "size_bytes": result.size_bytes,
            "created_at": now,
            "steps": json.dumps(dict(result.steps)),
            "dated_at": result.dated_at,
        }
        added = _ADD_RESULT.run(conn, row).lastrowid
        assert added is not None
        result_id = added
    link_result(conn, image_id, result_id, result.pane)
    return result_id


def link_result(conn: Connection, image_id: int, result_id: int, pane: int) -> None:
    """Note that this image has this result."""
    _LINK.run(conn, {"image_id": image_id, "result_id": result_id, "pane": pane})


def add_delivery(conn: Connection, result_id: int, destination: str) -> int | None:
    """Queue a result for a destination; None if that was done before."""
    way = {"result_id": result_id, "destination": destination, "state": DeliveryState.QUEUED}
    added = _ADD_DELIVERY.run(conn, way)
    return added.lastrowid if added.rowcount else None


def load_parcels(conn: Connection, delivery_ids: list[int]) -> dict[int, Parcel]:
    """The parcels of these deliveries, by delivery."""
    rows = conn.execute(_PARCELS, {"ids": delivery_ids})
    return {
        row.id: Parcel(
            row.id,
            DeliveryState(row.state),
            row.sop_instance_uid,
            row.sop_class_uid,
            row.study_instance_uid,
            row.series_instance_uid,
            row.digest,
            row.accepted_at,
            row.purged_at,
        )
        for row in rows
    }


def delivery_state(conn: Connection, delivery_id: int) -> DeliveryState:
    """Where a delivery stands."""
    return DeliveryState(conn.scalars(select(deliveries.c.state).where(deliveries.c.id == delivery_id)).one())


def move_delivery(conn: Connection, delivery_id: int, event: DeliveryEvent, **values: Any) -> None:
    """Change a delivery as the table allows, or raise IllegalTransition."""
    move_deliveries(conn, event, {delivery_id: values})


def move_deliveries(conn: Connection, event: DeliveryEvent, moves: Mapping[int, Mapping[str, Any]]) -> None:
    """Change deliveries alike, in one statement: each its own values of the same columns.

    Raises IllegalTransition if the table does not allow it for one of them; the caller has to undo the rest.
    """
    columns = tuple(next(iter(moves.values())))
    rows = [
        {"delivery": delivery_id} | {f"new_{column}": value for column, value in values.items()}
        for delivery_id, values in moves.items()
    ]
    if conn.execute(_change(event, columns), rows).rowcount != len(moves):
        named = f"delivery {next(iter(moves))}" if len(moves) == 1 else f"one of {len(moves)} deliveries"
        raise IllegalTransition(f"{named} cannot {event}")


@lru_cache
def _change(event: DeliveryEvent, columns: tuple[str, ...]) -> Update:
    """Built once; each event leads to one state, wherever it comes from."""
    before = [state for state, known in DELIVERY_TRANSITIONS if known is event]
    return (
        update(deliveries)
        .where(
            deliveries.c.id == bindparam("delivery"), or_(*(deliveries.c.state == state for state in before))
        )
        .values(
            {"state": DELIVERY_TRANSITIONS[before[0], event]}
            | {column: bindparam(f"new_{column}") for column in columns}
        )
    )


def is_result(conn: Connection, digest: str) -> bool:
    """Does a row need the file of the emitted object with this digest?"""
    needing = select(results.c.id).where(results.c.digest == digest, results.c.purged_at.is_(None))
    return conn.scalar(needing.limit(1)) is not None
