"""Read-only views for people: where is my study, what waits, what failed and why."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, or_, select

from dicom_node.core.breaker import Breaker
from dicom_node.core.delivery import DeliveryState
from dicom_node.core.errors import NoSuchJob
from dicom_node.core.job import JobKind, JobState
from dicom_node.core.retention import RetentionPolicy
from dicom_node.store.breakers import load_breaker
from dicom_node.store.images import Decision
from dicom_node.store.retention import holds_by_study, kept_by_study
from dicom_node.store.schema import deliveries, image_results, images, job_events, jobs, results, studies


@dataclass(frozen=True, slots=True)
class DeliveryLine:
    """One result at one destination."""

    destination: str
    state: str
    words: str | None
    accepted_at: datetime | None
    confirmed_at: datetime | None
    confirmed_by: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One result of an image."""

    sop_instance_uid: str
    series_instance_uid: str
    bundle: str
    created_at: datetime
    steps: dict[str, float]
    deliveries: tuple[DeliveryLine, ...]


@dataclass(frozen=True, slots=True)
class ImageLine:
    """One image's way through the node."""

    study_instance_uid: str
    accession_number: str
    sop_instance_uid: str
    instance_number: int | None
    route: str
    calling_ae_title: str
    received_at: datetime
    arrivals: int
    decision: str
    skip_code: str | None
    skip_sentence: str | None
    job: int | None
    job_state: str | None
    job_error: str | None
    claimed_at: datetime | None
    ended_at: datetime | None
    purged_at: datetime | None
    results: tuple[ResultLine, ...]

    @property
    def stage(self) -> str:
        """Where the image is now, in one word; the slowest destination counts."""
        if self.decision == Decision.SKIPPED:
            return "skipped"
        if self.job_state != JobState.DONE:
            return self.job_state or "unknown"
        states = {delivery.state for result in self.results for delivery in result.deliveries}
        for state in (
            DeliveryState.PARKED,
            DeliveryState.QUEUED,
            DeliveryState.ACCEPTED,
            DeliveryState.CONFIRMED,
        ):
            if state in states:
                return state.value
        return "made"  # and nowhere to go


@dataclass(frozen=True, slots=True)
class StudyLine:
    """One study in numbers."""

    study_instance_uid: str
    accession_number: str
    state: str
    revision: int
    first_received_at: datetime
    last_received_at: datetime
    images: int
    skipped: int
    failed: int
    results: int
    confirmed: int
    parked: int
    purged_at: datetime | None
    kept_bytes: int
    held_back: str | None
    """Why its local copies must stay whatever their age; None: they may go."""


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job."""

    id: int
    kind: str
    lane: str
    state: str
    attempts: int
    max_attempts: int
    not_before: datetime
    created_at: datetime
    ended_at: datetime | None
    owner: str | None
    error_code: str | None
    error_text: str | None
    study_instance_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """One change of one job."""

    at: datetime
    event: str
    state: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class ReasonLine:
    """Jobs that ended, or wait, for the same reason."""

    count: int
    kind: str
    lane: str
    state: str
    error_code: str | None
    example: str | None
    """What the newest of them says."""


@dataclass(frozen=True, slots=True)
class DestinationLine:
    """One destination: how it behaves, and what waits for it."""

    destination: str
    breaker: Breaker
    waiting: int
    """Results that it does not have yet."""
    unconfirmed: int
    """Results that it said it stored, and that it was not seen to have."""
    parked: int
    warned: int
    """Results that it stored with a warning."""
    last_stored_at: datetime | None


def destination_lines(conn: Connection, destinations: Sequence[str]) -> list[DestinationLine]:
    """The destinations, in the order given."""
    way = deliveries.c
    rows = conn.execute(
        select(way.destination, way.state, func.count(), func.max(way.accepted_at)).group_by(
            way.destination, way.state
        )
    ).all()
    stored = way.state.in_((DeliveryState.ACCEPTED, DeliveryState.CONFIRMED))
    warned: dict[str, int] = {
        row[0]: row[1]
        for row in conn.execute(
            select(way.destination, func.count()).where(stored, way.status != 0).group_by(way.destination)
        )
    }
    lines = []
    for name in destinations:
        states = {row.state: row[2] for row in rows if row.destination == name}
        times = [row[3] for row in rows if row.destination == name and row[3]]
        lines.append(
            DestinationLine(
                destination=name,
                breaker=load_breaker(conn, name),
                waiting=states.get(DeliveryState.QUEUED, 0),
                unconfirmed=states.get(DeliveryState.ACCEPTED, 0),
                parked=states.get(DeliveryState.PARKED, 0),
                warned=warned.get(name, 0),
                last_stored_at=max(times, default=None),
            )
        )
    return lines


def counts(conn: Connection) -> dict[str, dict[str, int]]:
    """How many images, jobs and deliveries are in each state."""

    def by(column: Any) -> dict[str, int]:
        rows = conn.execute(select(column, func.count()).group_by(column).order_by(column))
        return {str(state): int(count) for state, count in rows}

    unfinished = (
        select(jobs.c.kind, jobs.c.state, func.count())
        .where(jobs.c.state.not_in((JobState.DONE, JobState.CANCELLED)))
        .group_by(jobs.c.kind, jobs.c.state)
    )
    return {
        "studies": by(studies.c.state),
        "images": by(images.c.decision),
        "jobs": {f"{kind} {state}": count for kind, state, count in conn.execute(unfinished)},
        "deliveries": by(deliveries.c.state),
    }


def image_lines(conn: Connection, *, study: str | None, limit: int) -> list[ImageLine]:
    """The newest images, oldest first; `study` is a Study Instance UID or an accession number."""
    query = select(images, studies.c.study_instance_uid, studies.c.accession_number).join(
        studies, studies.c.id == images.c.study_id
    )
    rows = conn.execute(_of_study(query, study).order_by(images.c.id.desc()).limit(limit)).all()[::-1]
    ids = [row.id for row in rows]
    work = _last_infer_jobs(conn, ids)
    made = _results(conn, ids)
    return [_image_line(row, work.get(row.id), made[row.id]) for row in rows]


def study_lines(
    conn: Connection, *, study: str | None, limit: int, policy: RetentionPolicy
) -> list[StudyLine]:
    """The studies that were heard of last, newest first."""
    found = conn.execute(
        _of_study(select(studies), study).order_by(studies.c.last_received_at.desc()).limit(limit)
    ).all()
    ids = [row.id for row in found]
    sizes, holds = kept_by_study(conn, ids), holds_by_study(conn, ids, policy)
    arrived, failed, made, ways = (
        _images_by_study(conn, ids),
        _failed_by_study(conn, ids),
        _results_by_study(conn, ids),
        _deliveries_by_study(conn, ids),
    )
    return [
        StudyLine(
            study_instance_uid=row.study_instance_uid,
            accession_number=row.accession_number,
            state=row.state,
            revision=row.revision,
            first_received_at=row.first_received_at,
            last_received_at=row.last_received_at,
            images=arrived[row.id].total(),
            skipped=arrived[row.id][Decision.SKIPPED],
            failed=failed.get(row.id, 0),
            results=made.get(row.id, 0),
            confirmed=ways[row.id][DeliveryState.CONFIRMED],
            parked=ways[row.id][DeliveryState.PARKED],
            purged_at=row.purged_at,
            kept_bytes=sizes.get(row.id, 0),
            held_back=holds[row.id].value if row.id in holds else None,
        )
        for row in found
    ]


def _images_by_study(conn: Connection, study_ids: Sequence[int]) -> dict[int, Counter[str]]:
    """How many images of each study are in each decision."""
    of = images.c
    rows = conn.execute(
        select(of.study_id, of.decision, func.count())
        .where(of.study_id.in_(study_ids))
        .group_by(of.study_id, of.decision)
    )
    return _by_state(rows)


def _failed_by_study(conn: Connection, study_ids: Sequence[int]) -> dict[int, int]:
    """How many images of each study the model failed on."""
    of = jobs.c
    rows = conn.execute(
        select(of.study_id, of.kind, of.state, func.count())
        .where(of.study_id.in_(study_ids))
        .group_by(of.study_id, of.kind, of.state)
    )
    # Chosen here: by kind and state, SQLite would go through every infer job there is.
    failed = (JobKind.INFER, JobState.FAILED)
    return {row[0]: row[3] for row in rows if (row.kind, row.state) == failed}


def _results_by_study(conn: Connection, study_ids: Sequence[int]) -> dict[int, int]:
    """How many results each study has."""
    rows = conn.execute(
        select(images.c.study_id, func.count(image_results.c.result_id.distinct()))
        .join(image_results, image_results.c.image_id == images.c.id)
        .where(images.c.study_id.in_(study_ids))
        .group_by(images.c.study_id)
    )
    return {row[0]: row[1] for row in rows}


def _deliveries_by_study(conn: Connection, study_ids: Sequence[int]) -> dict[int, Counter[str]]:
    """How many deliveries of each study's results are in each state."""
    rows = conn.execute(
        select(images.c.study_id, deliveries.c.state, func.count(deliveries.c.id.distinct()))
        .join(image_results, image_results.c.image_id == images.c.id)
        .join(deliveries, deliveries.c.result_id == image_results.c.result_id)
        .where(images.c.study_id.in_(study_ids))
        .group_by(images.c.study_id, deliveries.c.state)
    )
    return _by_state(rows)


def _by_state(rows: Iterable[Any]) -> dict[int, Counter[str]]:
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found[row[0]][row[1]] += row[2]
    return found


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; every condition left out takes all."""

    states: Sequence[str] = ()
    kinds: Sequence[str] = ()
    lane: str | None = None
    study: str | None = None
    """Study Instance UID or accession number."""
    reason: str | None = None
    """Code of the error a job ended in, or waits after."""

    def of(self, query: Select[Any]) -> Select[Any]:
        """The query over jobs and studies with these conditions."""
        for column, wanted in ((jobs.c.state, self.states), (jobs.c.kind, self.kinds)):
            if wanted:
                query = query.where(column.in_(wanted))
        for column, value in ((jobs.c.lane, self.lane), (jobs.c.error_code, self.reason)):
            if value:
                query = query.where(column == value)
        return _of_study(query, self.study)


def job_lines(conn: Connection, wanted: JobFilter, *, limit: int | None = 100) -> list[JobLine]:
    """Jobs that fit, newest first."""
    query = wanted.of(_jobs_query()).order_by(jobs.c.id.desc()).limit(limit)
    return [_job_line(row) for row in conn.execute(query)]


def reason_lines(conn: Connection, wanted: JobFilter) -> list[ReasonLine]:
    """Jobs that fit, counted by reason, the commonest first."""
    same = (jobs.c.kind, jobs.c.lane, jobs.c.state, jobs.c.error_code)
    query = select(func.count(), func.max(jobs.c.id), *same).join(studies, studies.c.id == jobs.c.study_id)
    rows = conn.execute(wanted.of(query).group_by(*same).order_by(func.count().desc(), *same)).all()
    return [
        ReasonLine(
            count=row[0],
            kind=row.kind,
            lane=row.lane,
            state=row.state,
            error_code=row.error_code,
            example=conn.scalar(select(jobs.c.error_text).where(jobs.c.id == row[1])),
        )
        for row in rows
    ]


def job_history(conn: Connection, job_id: int) -> tuple[JobLine, list[EventLine]]:
    """One job and everything that happened to it; raises NoSuchJob."""
    row = conn.execute(_jobs_query().where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NoSuchJob(f"job {job_id}; `emode jobs list` shows what there is")
    events = conn.execute(select(job_events).where(job_events.c.job_id == job_id).order_by(job_events.c.id))
    return _job_line(row), [EventLine(e.at, e.event, e.state, e.detail) for e in events]


def _jobs_query() -> Select[Any]:
    return (
        select(jobs, studies.c.study_instance_uid, images.c.sop_instance_uid)
        .join(studies, studies.c.id == jobs.c.study_id)
        .join(images, images.c.id == jobs.c.image_id)
    )


def _of_study(query: Select[Any], study: str | None) -> Select[Any]:
    if study is None:
        return query
    return query.where(or_(studies.c.study_instance_uid == study, studies.c.accession_number == study))


def _last_infer_jobs(conn: Connection, image_ids: list[int]) -> dict[int, Row[Any]]:
    # Kind and order are seen to here: SQLite would rather go through every infer job there is.
    of_images = conn.execute(select(jobs).where(jobs.c.image_id.in_(image_ids))).all()
    infer = (row for row in of_images if row.kind == JobKind.INFER)
    return {row.image_id: row for row in sorted(infer, key=lambda row: row.id)}


def _results(conn: Connection, image_ids: list[int]) -> dict[int, list[ResultLine]]:
    ways: dict[int, list[DeliveryLine]] = defaultdict(list)
    mine = select(image_results.c.result_id).where(image_results.c.image_id.in_(image_ids))
    # Put in order here: SQLite would rather read every delivery there is than sort.
    sent = conn.execute(select(deliveries).where(deliveries.c.result_id.in_(mine))).all()
    for row in sorted(sent, key=lambda row: row.id):
        ways[row.result_id].append(
            DeliveryLine(
                row.destination,
                row.state,
                row.words,
                row.accepted_at,
                row.confirmed_at,
                row.confirmed_by,
                row.status,
            )
        )
    made: dict[int, list[ResultLine]] = defaultdict(list)
    for row in conn.execute(
        select(results, image_results.c.image_id)
        .join(image_results, image_results.c.result_id == results.c.id)
        .where(image_results.c.image_id.in_(image_ids))
        .order_by(image_results.c.pane, results.c.id)
    ):
        made[row.image_id].append(
            ResultLine(
                row.sop_instance_uid,
                row.series_instance_uid,
                row.bundle,
                row.created_at,
                json.loads(row.steps),
                tuple(ways[row.id]),
            )
        )
    return made


def _image_line(row: Row[Any], job: Row[Any] | None, made: list[ResultLine]) -> ImageLine:
    return ImageLine(
        study_instance_uid=row.study_instance_uid,
        accession_number=row.accession_number,
        sop_instance_uid=row.sop_instance_uid,
        instance_number=row.instance_number,
        route=row.route,
        calling_ae_title=row.calling_ae_title,
        received_at=row.received_at,
        arrivals=row.arrivals,
        decision=row.decision,
        skip_code=row.skip_code,
        skip_sentence=row.skip_sentence,
        job=job and job.id,
        job_state=job and job.state,
        job_error=job and job.error_text,
        claimed_at=job and job.claimed_at,
        ended_at=job and job.ended_at,
        purged_at=row.purged_at,
        results=tuple(made),
    )


def _job_line(row: Row[Any]) -> JobLine:
    return JobLine(**{name: getattr(row, name) for name in JobLine.__slots__})
