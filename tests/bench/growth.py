"""Does it get slower with what is stored? Receive, claim and status beside 10 to 10,000 studies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from sqlalchemy import insert

from bench.figures import Figure, Sample
from bench.objects import SMALL, Template, fresh
from dicom_node.core.job import JobKind, JobState
from dicom_node.core.retention import RetentionPolicy
from dicom_node.core.rules import Route
from dicom_node.core.study import StudyState
from dicom_node.store import overview
from dicom_node.store.database import Database, open_database
from dicom_node.store.files import Layout
from dicom_node.store.jobs import claim, next_due
from dicom_node.store.process import Bells
from dicom_node.store.schema import deliveries, image_results, images, jobs, results, studies
from dicom_node.store.together import Together
from dicom_node.work.receive import INFER_LANE, Reception
from harness import received_from

_SIZES = (10, 100, 1_000, 10_000)
_IMAGES = 4
_TIMES = 40
_POLICY = RetentionPolicy()


def measure(folder: Path, rounds: int) -> Iterator[Figure]:
    """All figures of this part."""
    found: dict[str, dict[int, list[float]]] = {}
    for number in range(min(rounds, 3)):
        for size in _SIZES:
            for what, seconds in _measure(folder / f"{number}-{size}", size).items():
                found.setdefault(what, {}).setdefault(size, []).append(1000 * seconds)
    for what, by_size in found.items():
        yield Figure(
            f"{what}, {_SIZES[-1]:,} studies stored",
            Sample(tuple(by_size[_SIZES[-1]])),
            "ms",
            1.3,
            "<=",
            against=Sample(tuple(by_size[_SIZES[0]])),
            peer=f"{_SIZES[0]} studies",
        )


def _measure(folder: Path, size: int) -> dict[str, float]:
    layout = Layout(folder)
    layout.create()
    now = datetime.now(UTC)
    database = open_database(layout.database, now)
    try:
        _fill(database, size, now)
        route = Route("breast", "EMODE", "default", ("pacs",))
        reception = Reception(
            Together(database), layout, Bells(layout.bells), (route,), 5, lambda: datetime.now(UTC)
        )
        with fresh(folder, (Template(SMALL), _TIMES)) as (files,):
            received = iter([received_from(path, layout.incoming) for path in files])
            return {
                "receive": _time(lambda: reception.take(next(received))),
                "claim": _time(lambda: _claim(database)),
                "status": _time(lambda: _status(database)),
            }
    finally:
        database.close()


def _claim(database: Database) -> None:
    now = datetime.now(UTC)
    with database.read() as conn:
        assert next_due(conn, JobKind.INFER, INFER_LANE, now) == now
    with database.write() as conn:
        assert claim(conn, JobKind.INFER, INFER_LANE, limit=1, owner="bench", lease_s=60, now=now)


def _status(database: Database) -> None:
    with database.read() as conn:
        # As many lines beside few studies as beside many.
        assert len(overview.study_lines(conn, study=None, limit=_SIZES[0], policy=_POLICY)) == _SIZES[0]


def _time(action: Callable[[], object]) -> float:
    taken = []
    for _ in range(_TIMES):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return median(taken)


def _fill(database: Database, size: int, now: datetime) -> None:
    """Studies that are done: four images each, a result, a confirmed delivery, their jobs."""
    at = now - timedelta(days=1)
    with database.write() as conn:
        for first in range(0, size, 1000):
            numbers = range(first, min(first + 1000, size))
            pictures = [(n, i, n * _IMAGES + i + 1) for n in numbers for i in range(_IMAGES)]
            conn.execute(
                insert(studies),
                [
                    {
                        "id": n + 1,
                        "study_instance_uid": f"1.2.{n}",
                        "accession_number": f"A{n}",
                        "state": StudyState.SETTLED,
                        "first_received_at": at,
                        "last_received_at": at,
                        "settled_at": at,
                    }
                    for n in numbers
                ],
            )
            conn.execute(
                insert(images),
                [
                    {
                        "id": key,
                        "study_id": n + 1,
                        "route": "breast",
                        "sop_instance_uid": f"1.2.{n}.{i}",
                        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.6.1",
                        "series_instance_uid": f"1.2.{n}.0",
                        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                        "digest": f"{key:064d}",
                        "size_bytes": 190_000,
                        "calling_ae_title": "US",
                        "called_ae_title": "EMODE",
                        "address": "127.0.0.1",
                        "received_at": at,
                        "decision": "accepted",
                    }
                    for n, i, key in pictures
                ],
            )
            conn.execute(
                insert(results),
                [
                    {
                        "id": key,
                        "sop_instance_uid": f"1.3.{n}.{i}",
                        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7",
                        "study_instance_uid": f"1.2.{n}",
                        "series_instance_uid": f"1.3.{n}",
                        "bundle": "default",
                        "digest": f"{key + 10**9:064d}",
                        "size_bytes": 900_000,
                        "created_at": at,
                        "steps": "{}",
                    }
                    for n, i, key in pictures
                ],
            )
            linked = [{"image_id": key, "result_id": key, "pane": 0} for _, _, key in pictures]
            conn.execute(insert(image_results), linked)
            sent = {"destination": "pacs", "state": "confirmed", "accepted_at": at, "confirmed_at": at}
            conn.execute(insert(deliveries), [sent | {"id": key, "result_id": key} for _, _, key in pictures])
            done = {"state": JobState.DONE, "priority": 20, "max_attempts": 5, "created_at": at}
            conn.execute(
                insert(jobs),
                [
                    done
                    | {"kind": kind, "lane": lane, "study_id": n + 1, "image_id": key, "delivery_id": way}
                    for n, _, key in pictures
                    for kind, lane, way in (
                        (JobKind.INFER, INFER_LANE, None),
                        (JobKind.DELIVER, "pacs", key),
                        (JobKind.CONFIRM, "pacs", key),
                    )
                ],
            )
