"""The courier of a node in this process, on a real database and real files, with results ready to go."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from sqlalchemy import Connection, bindparam, select

from dicom_node.config import Config
from dicom_node.core.delivery import DeliveryState
from dicom_node.core.image import Arrival, ImageHeader
from dicom_node.core.job import JobKind
from dicom_node.dicom.services import SECONDARY_CAPTURE
from dicom_node.node.base import Base
from dicom_node.node.courier import carrying_lanes
from dicom_node.node.lanes import serve_lanes
from dicom_node.node.peers import archives_of
from dicom_node.node.people import audit_log_of
from dicom_node.node.values import layout_of, now
from dicom_node.store import overview
from dicom_node.store.breakers import load_breaker
from dicom_node.store.database import open_database
from dicom_node.store.images import record_arrival
from dicom_node.store.jobs import NewJob, enqueue
from dicom_node.store.process import Bells
from dicom_node.store.results import NewResult, add_delivery, add_result
from dicom_node.store.schema import deliveries
from dicom_node.telemetry.audit_trail import QueuedTrail
from harness import node_config
from peers.still import breast_still, write

RETRY = {"first_delay_s": 0.2, "factor": 1.0, "cap_s": 0.2}
BREAKER = {"failures": 3, "first_pause_s": 0.3, "cap_s": 0.6}

_QUEUED = (
    select(deliveries.c.id)
    .where(deliveries.c.destination == bindparam("destination"), deliveries.c.state == DeliveryState.QUEUED)
    .limit(1)
)


class Courier:
    """Lanes, loops and circuit breakers exactly as a node has them; the worker's part is done already."""

    def __init__(self, folder: Path, ports: dict[str, int], **destination: Any) -> None:
        """Destinations by name and port, called PACS; keys of their sections as keywords."""
        raw = node_config(folder, {name: ("PACS", port) for name, port in ports.items()})
        for section in raw["destinations"].values():
            section |= {"connect_timeout_s": 2, "answer_timeout_s": 2, "retry": RETRY, "breaker": BREAKER}
            section |= {"confirm": "none"} | destination
        self.folder = folder
        self.config = Config.model_validate(raw)
        self.layout = layout_of(self.config)
        self.layout.create()
        self.database = open_database(self.layout.database, now())
        self.bells = Bells(self.layout.bells)
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None

    def add_files(self, files: Sequence[Path], *destinations: str) -> None:
        """Queue these files as results, all at once: lanes that run already see all of them or none."""
        queued = []
        for path in files:
            ds = dcmread(path, stop_before_pixels=True)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            place = self.layout.result(digest)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            queued.append((ds, digest, place.stat().st_size))
        self._queue(queued, destinations, 10)

    def add(self, count: int, *destinations: str, first: int = 1, max_attempts: int = 10) -> list[str]:
        """Queue results number `first` and following for these destinations; return their UIDs.

        All at once: lanes that run already see all of them or none, and send them over one association.
        """
        queued = []
        for number in range(first, first + count):
            ds = breast_still(
                rows=32, columns=32, instance_number=number, sop_class=SECONDARY_CAPTURE, series="results"
            )
            path = write(ds, self.folder / "made.dcm")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            place = self.layout.result(digest)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
            queued.append((ds, digest, place.stat().st_size))
        self._queue(queued, destinations, max_attempts)
        for name in destinations:
            self.bells.ring(JobKind.DELIVER, name)
        return [str(ds.SOPInstanceUID) for ds, _, _ in queued]

    def _queue(
        self, results: Sequence[tuple[Any, str, int]], destinations: Sequence[str], max_attempts: int
    ) -> None:
        """One transaction for all results: data set, digest, bytes."""
        at = now()
        with self.database.write() as conn:
            for ds, digest, size in results:
                self._record(conn, ds, digest, size, destinations, max_attempts, at)

    @staticmethod
    def _record(
        conn: Connection,
        ds: Any,
        digest: str,
        size: int,
        destinations: Sequence[str],
        max_attempts: int,
        at: datetime,
    ) -> None:
        uids = (str(ds.SOPInstanceUID), str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))
        sop_class = str(ds.SOPClassUID)
        header = ImageHeader(sop_class, *uids, "1.2.840.10008.1.2.1")
        image = record_arrival(
            conn,
            header,
            Arrival("US", "EMODE", "127.0.0.1"),
            route="breast",
            digest=digest,
            size_bytes=size,
            skip=None,
            now=at,
        )
        result = add_result(
            conn,
            image.image_id,
            NewResult(
                sop_instance_uid=uids[0],
                sop_class_uid=sop_class,
                study_instance_uid=uids[1],
                series_instance_uid=uids[2],
                bundle="default",
                digest=digest,
                size_bytes=size,
                pane=0,
                steps={},
            ),
            at,
        )
        for name in destinations:
            job = NewJob(
                kind=JobKind.DELIVER,
                lane=name,
                priority=20,
                study_id=image.study_id,
                image_id=image.image_id,
                delivery_id=add_delivery(conn, result, name),
                max_attempts=max_attempts,
            )
            enqueue(conn, job, at)

    def start(self) -> Courier:
        """Carry until the end of the `with` block."""
        self.stop.clear()
        self.trail = QueuedTrail(audit_log_of(self.config))
        base = Base(
            config=self.config,
            layout=self.layout,
            database=self.database,
            bells=self.bells,
            stop=self.stop,
            trail=self.trail,
            last_end="",
        )
        lanes = carrying_lanes(base, archives_of(self.config, self.trail))
        self.thread = threading.Thread(target=serve_lanes, args=(base, lanes, {}))
        self.thread.start()
        return self

    def end(self) -> None:
        """Stop carrying; what is out is ended first."""
        self.stop.set()
        for name in self.config.destinations:
            for kind in (JobKind.DELIVER, JobKind.CONFIRM):
                self.bells.ring(kind, name)
        if self.thread is not None:
            self.thread.join(60)
            assert not self.thread.is_alive()
            self.trail.close()
            self.thread = None

    def __enter__(self) -> Courier:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.end()
        self.database.close()

    # -- what became of it ------------------------------------------------------------------------

    def states(self, destination: str = "archive") -> list[str]:
        """State of each delivery, in the order queued."""
        query = select(deliveries.c.state).where(deliveries.c.destination == destination)
        with self.database.read() as conn:
            return list(conn.scalars(query.order_by(deliveries.c.id)))

    def waiting(self, destination: str = "archive") -> bool:
        """Is there a delivery without an answer? Cheap enough to be asked while something is measured."""
        with self.database.read() as conn:
            return conn.execute(_QUEUED, {"destination": destination}).first() is not None

    def words(self, destination: str = "archive") -> list[str | None]:
        """What each delivery says for people."""
        query = select(deliveries.c.words).where(deliveries.c.destination == destination)
        with self.database.read() as conn:
            return list(conn.scalars(query.order_by(deliveries.c.id)))

    def jobs(self, **wanted: Any) -> list[overview.JobLine]:
        """Jobs that fit, oldest first."""
        with self.database.read() as conn:
            return overview.job_lines(conn, overview.JobFilter(**wanted), limit=None)[::-1]

    def events(self, job: int) -> list[str]:
        """Everything that happened to one job."""
        with self.database.read() as conn:
            return [event.event for event in overview.job_history(conn, job)[1]]

    def breaker(self, destination: str = "archive") -> Any:
        """The circuit breaker as it is in the table."""
        with self.database.read() as conn:
            return load_breaker(conn, destination)

    def wait(self, there: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.05) -> None:
        """Wait until `there()` is true, looking every so often, or fail with the jobs."""
        deadline = time.monotonic() + timeout_s
        while not there():
            if time.monotonic() > deadline:
                raise AssertionError("\n".join(map(str, [self.breaker(), *self.jobs()])))
            time.sleep(every_s)
