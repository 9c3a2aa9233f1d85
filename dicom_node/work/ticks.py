"""What has to happen now and then: settle studies, take back dead leases, purge, sweep what crashes left."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers import SchedulerNotRunningError
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Connection, func, select

from dicom_node.core import faults
from dicom_node.core.errors import StoreBusy
from dicom_node.core.job import JobKind
from dicom_node.core.retention import RetentionPolicy
from dicom_node.core.study import SettlePolicy
from dicom_node.store.database import Database
from dicom_node.store.files import Layout
from dicom_node.store.images import settle_due, studies_due
from dicom_node.store.jobs import (
    anything_runs,
    confirm_leases,
    mend_waits,
    release_held,
    unfinished_lanes,
    waits_from_the_future,
)
from dicom_node.store.migrations import created_at
from dicom_node.store.process import Bells
from dicom_node.store.recovery import take_back
from dicom_node.store.retention import (
    StoredFile,
    is_needed,
    is_purged,
    kept_by_study,
    kept_bytes,
    purge_study,
    purgeable,
    remove_unneeded,
)
from dicom_node.store.schema import images
from dicom_node.store.schema import studies as studies_table
from dicom_node.telemetry.audit_message import Actor, AuditEvent, AuditKind, ObjectKind, Part, Thing
from dicom_node.telemetry.audit_trail import NO_AUDIT, AuditTrail
from dicom_node.telemetry.log import where
from dicom_node.work.leases import LeaseWatch

log = logging.getLogger(__name__)

_SETTLE_EVERY_S = 2
_REAP_EVERY_S = 10
_TIDY_EVERY_S = 30
_SWEEP_EVERY_S = 600

_KEEP_UNOWNED_S = 3600.0
"""For how long a file in `incoming` must not have changed to be garbage: longer than any object takes."""
_PURGE_AT_ONCE = 50
"""Studies of one look; the rest has its turn soon."""
_FILES_AT_ONCE = 100
"""Files looked at under one lock, so that nobody waits long for it."""
_MOST_WAL_BYTES = 64 << 20
_CLOCK_LOOK_S = 1.0
_CLOCK_SET_S = 5.0
"""Seconds in one look by which a clock has been set rather than steered."""


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
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    monotonic: Callable[[], float] = time.monotonic
    trail: AuditTrail = NO_AUDIT
    """Is told of each study whose local copies are deleted."""
    _leases: LeaseWatch = field(default_factory=LeaseWatch)
    _unchanged: dict[Path, tuple[int, int, float]] = field(default_factory=dict)
    """Files in `incoming`: size, time of the last write, and since when (monotonic) they are so."""

    def start(self) -> BackgroundScheduler:
        """Run all ticks in a background thread until the scheduler is shut down."""
        scheduler = BackgroundScheduler(timezone="UTC")
        for tick, seconds in (
            (self.settle_studies, _SETTLE_EVERY_S),
            (self.reap, _REAP_EVERY_S),
            (self.retain, _TIDY_EVERY_S),
            (self.bound_wal, _TIDY_EVERY_S),
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
        threading.Thread(target=self._watch_clock, args=(scheduler,), daemon=True).start()
        return scheduler

    def _watch_clock(self, scheduler: BackgroundScheduler) -> None:
        """The scheduler waits for times of day: one set back would stop it until they come again."""
        offset_s = self.clock().timestamp() - self.monotonic()
        while scheduler.running:
            time.sleep(_CLOCK_LOOK_S)
            change_s = self.clock().timestamp() - self.monotonic() - offset_s
            if abs(change_s) < _CLOCK_SET_S:
                continue
            offset_s += change_s
            log.warning("the clock was set", extra={"action": "clock-set", "seconds": change_s})
            with suppress(SchedulerNotRunningError, JobLookupError):  # it is being shut down
                for job in scheduler.get_jobs():
                    job.modify(next_run_time=datetime.now(UTC))

    def settle_studies(self) -> None:
        """Settle quiet studies and let their held deliveries go."""
        now = self.clock()
        with self.database.read() as conn:  # mostly nothing is due, and a look takes no lock
            late = waits_from_the_future(conn, now)
            if not late and not studies_due(conn, self.settle, now):
                return
        with self.database.write() as conn:
            mended = mend_waits(conn, now) if late else 0
            settled = settle_due(conn, self.settle, now)
            lanes = {lane for study in settled for lane in release_held(conn, study, now)}
            faults.step("settle.changed")
        faults.step("settle.committed")
        for lane in lanes:
            self.bells.ring(JobKind.DELIVER, lane)
        if mended:
            log.warning("waits mended after the clock was set back", extra=_fields("waits-mended", mended))
        if settled:
            log.info("studies settled", extra=_fields("studies-settled", len(settled)))

    def reap(self) -> None:
        """Take back jobs whose lease ended, on lanes that nobody serves any more too."""
        with self.database.read() as conn:
            if not anything_runs(conn):
                return
            lanes = unfinished_lanes(conn)
        try:
            with self.database.write() as conn:
                leases = confirm_leases(conn)
        except StoreBusy:
            self._leases.forget()
            raise
        ended = self._leases.ended(leases, self.monotonic())
        for kind, lane in lanes:
            served = (kind, lane) in self.lanes
            if served and not ended:
                continue
            with self.database.write() as conn:
                take_back(conn, self.clock(), kind=kind, lane=lane, leases=ended if served else None)
            self.bells.ring(kind, lane)

    def retain(self) -> None:
        """Purge the local copies that are proven and old, or more than there may be."""
        now = self.clock()
        oldest = self.retention.oldest_kept(now)
        if oldest is not None:
            with self.database.read() as conn:
                due = purgeable(conn, self.retention, before=oldest, limit=_PURGE_AT_ONCE)
            self._purge(due, now)
        if self.retention.max_bytes is not None:
            self._purge(self._oldest_over(self.retention.max_bytes), now)

    def _oldest_over(self, max_bytes: int) -> list[int]:
        with self.database.read() as conn:
            excess = kept_bytes(conn) - max_bytes
            if excess <= 0:
                return []
            oldest = purgeable(conn, self.retention, before=None, limit=_PURGE_AT_ONCE)
            sizes = kept_by_study(conn, oldest)
        chosen: list[int] = []
        for study in oldest:
            if excess <= 0:
                break
            chosen.append(study)
            excess -= sizes.get(study, 0)
        return chosen

    def _purge(self, studies: Sequence[int], now: datetime) -> None:
        count = 0
        for study in studies:
            with self.database.write() as conn:
                thing, before = _what_goes(conn, study), _purged_at(conn, study)
                files = purge_study(conn, study, self.retention, now)
                # Not by the files: each of them may be another study's too, and stay.
                gone = _purged_at(conn, study) != before
                faults.step("purge.changed")
            faults.step("purge.committed")
            if gone:  # not what was held back at the last moment
                count += 1
                actor = Actor("courier", Part.APPLICATION, requestor=True)
                self.trail.record(AuditEvent(AuditKind.STUDY_DELETED, now, (actor,), (thing,)))
            self._remove(files)
        if count:
            log.info("local copies purged", extra=_fields("studies-purged", count))

    def bound_wal(self) -> None:
        """Bring the write-ahead log back to the start of its file, where readers kept it from going there."""
        size = self.database.wal_bytes()
        if size > _MOST_WAL_BYTES and not self.database.shrink_wal():
            log.warning(
                "the write-ahead log grows; a program that reads the database does not end its read",
                extra={"action": "wal-grows", "mib": size >> 20},
            )

    def sweep(self) -> None:
        """Remove files that a crash left, and those that a purge did not come to."""
        count = self._sweep_incoming()
        with self.database.read() as conn:
            born = created_at(conn).timestamp()
        unneeded: list[StoredFile] = []
        for some in _chunks(self.layout.stored(), _FILES_AT_ONCE):
            with self.database.read() as conn:
                for kind, digest, path in some:
                    if is_needed(conn, kind, digest):
                        continue
                    # A file older than the database belonged to another one: not ours to judge.
                    with suppress(FileNotFoundError):
                        if is_purged(conn, kind, digest) or path.stat().st_mtime >= born:
                            unneeded.append((kind, digest))
        count += self._remove(unneeded)
        if count:
            log.info("leftovers removed", extra=_fields("leftovers-removed", count))

    def _sweep_incoming(self) -> int:
        """By how long a file stays as it is, not by its age: the clock may be set at any time."""
        at_s, count = self.monotonic(), 0
        seen: dict[Path, tuple[int, int, float]] = {}
        for path in self.layout.incoming.iterdir():
            with suppress(FileNotFoundError):  # it may get its final name at any moment
                facts = path.stat()
                before = self._unchanged.get(path)
                same = before is not None and before[:2] == (facts.st_size, facts.st_mtime_ns)
                since = before[2] if before is not None and same else at_s
                if at_s - since >= _KEEP_UNOWNED_S:
                    path.unlink()
                    count += 1
                else:
                    seen[path] = (facts.st_size, facts.st_mtime_ns, since)
        self._unchanged.clear()
        self._unchanged.update(seen)
        return count

    def _remove(self, files: Sequence[StoredFile]) -> int:
        """Unlink what no row needs, looked at again under the lock that rows are written with."""
        count = 0
        for some in _chunks(iter(files), _FILES_AT_ONCE):
            with self.database.write() as conn:
                count += remove_unneeded(conn, self.layout, some)
        return count


def _purged_at(conn: Connection, study: int) -> datetime | None:
    return conn.scalar(select(studies_table.c.purged_at).where(studies_table.c.id == study))


def _what_goes(conn: Connection, study: int) -> Thing:
    """A study with the images that are still here; one on two routes is one."""
    uid = conn.scalar(select(studies_table.c.study_instance_uid).where(studies_table.c.id == study))
    counts = conn.execute(
        select(images.c.sop_class_uid, func.count(images.c.sop_instance_uid.distinct()))
        .where(images.c.study_id == study, images.c.purged_at.is_(None))
        .group_by(images.c.sop_class_uid)
        .order_by(images.c.sop_class_uid)
    ).all()
    return Thing(ObjectKind.STUDY, uid or "", tuple((sop_class, count) for sop_class, count in counts))


_Item = TypeVar("_Item")


def _chunks(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _fields(action: str, count: int) -> dict[str, object]:
    return {"action": action, "count": count}


def _logged(tick: Callable[[], None]) -> Callable[[], None]:
    """The scheduler would swallow what a tick raises; what goes on for hours is said once."""
    trouble: list[str] = []

    def run() -> None:
        try:
            tick()
            trouble.clear()
        except Exception as error:  # noqa: BLE001
            code = type(error).__name__
            if [code] == trouble:
                return
            trouble[:] = [code]
            log.error(
                "tick failed",
                extra={"action": "tick-failed", "kind": tick.__name__, "code": code, "where": where(error)},
            )

    return run
