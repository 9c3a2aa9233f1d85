"""What has to happen now and then: settle studies, take back dead leases, sweep what crashes left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Connection

from dicom_node.core import faults
from dicom_node.core.job import JobKind
from dicom_node.core.study import SettlePolicy
from dicom_node.store.database import Database
from dicom_node.store.files import Layout
from dicom_node.store.images import is_source, settle_due, studies_due
from dicom_node.store.jobs import release_held, unfinished_lanes
from dicom_node.store.process import Bells
from dicom_node.store.recovery import take_back
from dicom_node.store.results import is_result
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)

_SETTLE_EVERY_S = 2
_REAP_EVERY_S = 10
_SWEEP_EVERY_S = 600

_KEEP_UNOWNED = timedelta(hours=1)
"""Age at which a file without a row is garbage: longer than any object takes to arrive and be recorded."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """Periodic work. Missing any number of ticks is harmless: each looks at the tables anew."""

    database: Database
    layout: Layout
    bells: Bells
    settle: SettlePolicy
    lanes: Sequence[tuple[JobKind, str]]
    """The lanes that this configuration serves."""
    clock: Callable[[], datetime]
    others: Sequence[tuple[Callable[[], None], float]] = ()
    """Further ticks, each with its seconds between; these come once at the start as well."""

    def start(self) -> BackgroundScheduler:
        """Run all ticks in a background thread until the scheduler is shut down."""
        scheduler = BackgroundScheduler(timezone="UTC")
        for tick, seconds in (
            (self.settle_studies, _SETTLE_EVERY_S),
            (self.reap, _REAP_EVERY_S),
            (self.sweep, _SWEEP_EVERY_S),
        ):
            scheduler.add_job(
                _logged(tick),
                "interval",
                seconds=seconds,
                next_run_time=datetime.now(UTC),  # the end of the process before may have been a crash
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,  # late is better than dropped
            )
        for other, pause_s in self.others:
            scheduler.add_job(
                _logged(other),
                "interval",
                seconds=pause_s,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
                next_run_time=self.clock(),
            )
        scheduler.start()
        return scheduler

    def settle_studies(self) -> None:
        """Settle quiet studies and let their held deliveries go."""
        now = self.clock()
        with self.database.read() as conn:  # mostly nothing is due, and a look takes no lock
            if not studies_due(conn, self.settle, now):
                return
        with self.database.write() as conn:
            settled = settle_due(conn, self.settle, now)
            lanes = {lane for study in settled for lane in release_held(conn, study, now)}
            faults.step("settle.changed")
        faults.step("settle.committed")
        for lane in lanes:
            self.bells.ring(JobKind.DELIVER, lane)
        if settled:
            log.info("studies settled", extra={"action": "studies-settled", "count": len(settled)})

    def reap(self) -> None:
        """Take back jobs whose lease ran out, on lanes that nobody serves any more too."""
        now = self.clock()
        with self.database.read() as conn:
            lanes = unfinished_lanes(conn)
        for kind, lane in lanes:
            with self.database.write() as conn:
                take_back(conn, now, kind=kind, lane=lane, owner_gone=(kind, lane) not in self.lanes)
            self.bells.ring(kind, lane)

    def sweep(self) -> None:
        """Remove files that a crash left without a row."""
        oldest = (self.clock() - _KEEP_UNOWNED).timestamp()
        count = 0
        for path in self.layout.incoming.iterdir():
            with suppress(FileNotFoundError):  # it may get its final name at any moment
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    count += 1
        for kind, digest, path in self.layout.stored():
            with self.database.read() as conn:
                if _has_row(conn, kind, digest):
                    continue
            # Looked at again under the lock that a row is written with: see store.files.place_file.
            with self.database.write() as conn, suppress(FileNotFoundError):
                if not _has_row(conn, kind, digest) and path.stat().st_mtime < oldest:
                    path.unlink()
                    faults.step("sweep.unlinked")
                    count += 1
        if count:
            log.info("leftovers removed", extra={"action": "leftovers-removed", "count": count})


def _has_row(conn: Connection, kind: str, digest: str) -> bool:
    return is_source(conn, digest) if kind == "source" else is_result(conn, digest)


def _logged(tick: Callable[[], None]) -> Callable[[], None]:
    """The scheduler would swallow what a tick raises."""

    def run() -> None:
        try:
            tick()
        except Exception as error:  # noqa: BLE001
            log.error(
                "tick failed",
                extra={
                    "action": "tick-failed",
                    "kind": tick.__name__,
                    "code": type(error).__name__,
                    "where": where(error),
                },
            )

    return run
