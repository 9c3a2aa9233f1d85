"""Judge images, run the model on those that are B-mode, and keep the results."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.errors import FilePurged, NodeError, RouteMissing
from dicom_node.core.job import JobKind
from dicom_node.core.rules import DeliverWhen, Route
from dicom_node.dicom.reading import ReadLimits, SourceImage, read_image
from dicom_node.dicom.results import ResultIdentity, write_result
from dicom_node.dicom.skip import Skip
from dicom_node.disk import sync
from dicom_node.store.database import Database
from dicom_node.store.files import Layout, place_file
from dicom_node.store.images import StoredImage, decide, holds_digest, load_image, study_is_settled
from dicom_node.store.jobs import ClaimedJob, NewJob, enqueue
from dicom_node.store.results import (
    NewResult,
    add_delivery,
    add_result,
    has_way_to_go,
    known_result,
    link_result,
)
from dicom_node.store.retention import purged_words
from dicom_node.store.scratch import Scratch
from dicom_node.work.make import (
    Appearance,
    Elastogram,
    Made,
    Model,
    Unfamiliar,
    identify,
    leave_unfamiliar,
    make_results,
)
from dicom_node.work.outcome import Effect, Outcome
from dicom_node.work.pulse import Pulse


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """An accepted image on its way through the model."""

    job: ClaimedJob
    stored: StoredImage
    route: Route
    image: SourceImage
    path: Path
    read_s: float


@dataclass(frozen=True, slots=True)
class Infer:
    """Handler for infer jobs."""

    database: Database
    layout: Layout
    routes: Mapping[str, Route]
    models: Mapping[str, Model]
    appearance: Appearance
    limits: ReadLimits
    delivery_attempts: Mapping[str, int]
    """Destination -> tries for each delivery."""
    unfamiliar: Unfamiliar = "skip"
    """What becomes of frames that do not look like what the model was made for."""
    pulse: Pulse = field(default_factory=Pulse)
    """Beaten before each image is read, at each pass of the model, and before results are made."""
    scratch: Scratch = field(default_factory=Scratch)
    """Where results are put together."""
    helpers: int = 1
    """Threads that work on images. What takes long there (decoding, filtering, the network, digests, syncs)
    leaves Python's lock alone."""

    def __call__(self, claimed: Sequence[ClaimedJob]) -> Iterator[Outcome]:
        """Read, run, make, several images at a time.

        Where the model joins frames, what has been read goes through it together, and what is read
        meanwhile goes next: nothing waits for a fuller batch.
        """
        faults.step("infer.claimed")
        made: deque[Future[Outcome]] = deque()
        with ThreadPoolExecutor(self.helpers, thread_name_prefix="helper") as helpers:
            try:
                begun = deque(helpers.submit(self._begin, job) for job in claimed)
                while begun:
                    joined: dict[str, list[_Ready]] = {}
                    for one in _those_done(begun):
                        if isinstance(one, Outcome):
                            yield one
                        else:
                            joined.setdefault(one.route.bundle, []).append(one)
                    for batch in joined.values():
                        made += self._run(batch, helpers)
                    while made and made[0].done():
                        yield made.popleft().result()
                while made:
                    yield made.popleft().result()
            finally:
                helpers.shutdown(cancel_futures=True)

    def _begin(self, job: ClaimedJob) -> _Ready | Outcome:
        """Read an image, and bring it to its end where the model takes images one by one.

        One thread does all of it: nothing is handed over, and what other images need goes on meanwhile.
        """
        read = self._read(job)
        if isinstance(read, Outcome) or self.models[read.route.bundle].joins_frames:
            return read
        return self._through(read)

    def _run(self, batch: Sequence[_Ready], helpers: Executor) -> Iterator[Future[Outcome]]:
        """One pass of the model for all, then their results."""
        try:
            passed = self._pass(batch)
        except NodeError as error:
            if len(batch) == 1:
                yield helpers.submit(Outcome, batch[0].job, error)
                return
            # One of them is the cause: apart, the others are not its victims.
            for item in batch:
                yield from self._run([item], helpers)
            return
        for item, mine, infer_s in passed:
            yield helpers.submit(self._make, item, mine, infer_s)

    def _through(self, item: _Ready) -> Outcome:
        """The model and the results of one image."""
        try:
            ((_, mine, infer_s),) = self._pass([item])
        except NodeError as error:
            return Outcome(item.job, error=error)
        return self._make(item, mine, infer_s)

    def _pass(self, batch: Sequence[_Ready]) -> list[tuple[_Ready, list[Elastogram], float]]:
        """One pass of the model: each image with its elastograms and its share of the seconds."""
        self.pulse.step()
        started = time.monotonic()
        model = self.models[batch[0].route.bundle]
        elastograms = iter(model.predictor.predict([p.grey for item in batch for p in item.image.panes]))
        infer_s = (time.monotonic() - started) / len(batch)
        faults.step("infer.predicted")
        return [(item, [next(elastograms) for _ in item.image.panes], infer_s) for item in batch]

    def _read(self, job: ClaimedJob) -> _Ready | Outcome:
        """Decode and judge one image."""
        self.pulse.step()
        started = time.monotonic()
        with self.database.read() as conn:
            stored = load_image(conn, job.image_id)
        route = self.routes.get(stored.route)
        if route is None:
            names = ", ".join(self.routes)
            return Outcome(
                job, error=RouteMissing(f'"{stored.route}"; configured are: {names}. Retry once it is back')
            )
        if stored.purged_at is not None:
            return Outcome(job, error=FilePurged(purged_words("image", stored.purged_at)))
        path = self.layout.source(stored.digest)
        try:
            image = read_image(path, self.limits)
        except NodeError as error:
            return Outcome(job, error=error)
        faults.step("infer.read")
        if isinstance(image, Skip):
            return _left_alone(job, stored, image)
        return _Ready(job, stored, route, image, path, time.monotonic() - started)

    def _make(self, item: _Ready, elastograms: Sequence[Elastogram], infer_s: float) -> Outcome:
        """Build and keep the results of one image, or leave alone what the model was not made for."""
        self.pulse.step()
        model = self.models[item.route.bundle]
        left = leave_unfamiliar(item.image, elastograms, self.unfamiliar)
        if isinstance(left, Skip):
            return _left_alone(item.job, item.stored, left)
        item, elastograms = replace(item, image=left[0]), left[1]
        links: list[tuple[int, int]] = []
        wanted: dict[datetime, set[str]] = {}  # Content Date and Time -> results to make
        with self.database.read() as conn:
            for pane in item.image.panes:
                uid = identify(item.image, pane, model, self.appearance).sop_instance_uid
                known = known_result(conn, uid)
                gone = known is not None and known.purged_at is not None
                if known is None or (gone and has_way_to_go(conn, known.id, item.route.destinations)):
                    dated_at = (known and known.dated_at) or item.job.created_at
                    wanted.setdefault(dated_at, set()).add(uid)
                else:
                    links.append((known.id, pane.index))
        fresh: list[tuple[NewResult, Path]] = []
        try:
            for dated_at, uids in wanted.items():
                for made in make_results(
                    item.path,
                    item.image,
                    elastograms,
                    model,
                    self.appearance,
                    created_at=dated_at,
                    wanted=partial(_is_among, uids),
                ):
                    steps = {"read": item.read_s, "infer": infer_s, "compose": made.seconds}
                    fresh.append(self._keep(made, model, steps, dated_at))
        except NodeError as error:
            return Outcome(item.job, error=error)
        return Outcome(
            item.job,
            effect=self._record(item, fresh, links),
            detail=f"{len(fresh)} new result(s)" if fresh else "the results exist already",
            rings=tuple((JobKind.DELIVER, destination) for destination in item.route.destinations),
        )

    def _keep(
        self, made: Made, model: Model, steps: dict[str, float], dated_at: datetime
    ) -> tuple[NewResult, Path]:
        """Write a result and make its content durable; it gets its name together with its row."""
        started = time.monotonic()
        written = self.layout.incoming / f"result-{uuid.uuid4()}.dcm"
        try:
            with self.scratch.sheet() as sheet:
                write_result(made.dataset, sheet)
                digest, size = sheet.digest(), sheet.size
                sheet.save(written)
            faults.step("infer.written")
            sync(written)  # its name is not durable yet
        except OSError:
            written.unlink(missing_ok=True)  # half a file would take the room that the next try needs
            raise
        faults.step("infer.synced")
        result = NewResult(
            sop_instance_uid=made.identity.sop_instance_uid,
            sop_class_uid=str(made.dataset.SOPClassUID),
            study_instance_uid=str(made.dataset.StudyInstanceUID),
            series_instance_uid=made.identity.series_instance_uid,
            bundle=f"{model.facts.name}-{model.facts.version}",
            digest=digest,
            size_bytes=size,
            pane=made.pane.index,
            steps=steps | {"keep": time.monotonic() - started},
            dated_at=dated_at,
        )
        return result, written

    def _record(
        self, item: _Ready, fresh: list[tuple[NewResult, Path]], links: list[tuple[int, int]]
    ) -> Effect:
        """Result rows, delivery rows and their jobs: committed together with the end of the infer job."""

        def record(conn: Connection, now: datetime) -> None:
            if not _decide_if_current(conn, item.stored, None, now):
                for _, written in fresh:
                    written.unlink(missing_ok=True)  # a commit that failed may have been before
                return
            rows = []
            for result, written in fresh:
                place_file(written, self.layout.result(result.digest))
                faults.step("infer.placed")
                rows.append(add_result(conn, item.stored.id, result, now))
            for row, pane in links:
                link_result(conn, item.stored.id, row, pane)
            held = item.route.deliver is DeliverWhen.WHEN_SETTLED and not study_is_settled(
                conn, item.stored.study_id
            )
            for row in [*rows, *(row for row, _ in links)]:
                for destination in item.route.destinations:
                    delivery = add_delivery(conn, row, destination)
                    if delivery is not None:
                        enqueue(conn, self._deliver_job(item, delivery, destination, held), now)

        return record

    def _deliver_job(self, item: _Ready, delivery_id: int, destination: str, held: bool) -> NewJob:
        return NewJob(
            kind=JobKind.DELIVER,
            lane=destination,
            priority=item.route.priority,
            study_id=item.stored.study_id,
            image_id=item.stored.id,
            delivery_id=delivery_id,
            max_attempts=self.delivery_attempts[destination],
            held=held,
        )


def _those_done(begun: deque[Future[_Ready | Outcome]]) -> Iterator[_Ready | Outcome]:
    """Wait for the first, and take with it those after it that are done by then."""
    yield begun.popleft().result()
    while begun and begun[0].done():
        yield begun.popleft().result()


def _left_alone(job: ClaimedJob, stored: StoredImage, skip: Skip) -> Outcome:
    def leave_alone(conn: Connection, now: datetime) -> None:
        _decide_if_current(conn, stored, skip, now)

    return Outcome(job, effect=leave_alone, detail=f"skipped: {skip.code.value}")


def _is_among(uids: Collection[str], identity: ResultIdentity) -> bool:
    return identity.sop_instance_uid in uids


def _decide_if_current(conn: Connection, stored: StoredImage, skip: Skip | None, now: datetime) -> bool:
    """Record the verdict, unless other bytes took the image's place meanwhile: they have their own job."""
    current = holds_digest(conn, stored.id, stored.digest)
    if current:
        decide(conn, stored.id, skip, now)
    return current
