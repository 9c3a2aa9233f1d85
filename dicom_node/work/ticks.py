"""What has to happen now and then: settle studies, take back dead leases, sweep what crashes left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.core.job import JobKind
from dicom_node.core.study import SettlePolicy
from dicom_node.store.database import Database
from dicom_node.store.files import Layout
from dicom_node.store.images import settle_due, source_digests, studies_due
from dicom_node.store.jobs import expire, release_held
from dicom_node.store.process import Bells
from dicom_node.store.results import result_digests

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
    clock: Callable[[], datetime]

    def start(self) -> BackgroundScheduler:
        """Run all ticks in a background thread until the scheduler is shut down."""
        scheduler = BackgroundScheduler(timezone="UTC")
        for tick, seconds in (
            (self.settle_studies, _SETTLE_EVERY_S),
            (self.reap, _REAP_EVERY_S),
            (self.sweep, _SWEEP_EVERY_S),
        ):
            scheduler.add_job(tick, "interval", seconds=seconds, coalesce=True, max_instances=1)
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
        for lane in lanes:
            self.bells.ring(JobKind.DELIVER, lane)
        if settled:
            log.info("studies settled", extra={"action": "studies-settled", "count": len(settled)})

    def reap(self) -> None:
        """Take back jobs whose lease ran out."""
        now = self.clock()
        for kind, lane in self.lanes:
            with self.database.write() as conn:
                expire(conn, now, kind=kind, lane=lane, owner_gone=False)
            self.bells.ring(kind, lane)

    def sweep(self) -> None:
        """Remove files that a crash left without a row."""
        oldest = (self.clock() - _KEEP_UNOWNED).timestamp()
        stale = [path for path in self.layout.incoming.iterdir() if path.stat().st_mtime < oldest]
        with self.database.read() as conn:
            owned = {"source": source_digests(conn), "result": result_digests(conn)}
        stale += [
            path
            for kind, digest, path in self.layout.stored()
            if digest not in owned[kind] and path.stat().st_mtime < oldest
        ]
        for path in stale:
            path.unlink(missing_ok=True)
        if stale:
            log.info("leftovers removed", extra={"action": "leftovers-removed", "count": len(stale)})
