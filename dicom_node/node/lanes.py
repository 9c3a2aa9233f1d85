"""One thread for each lane of work, in a process that does not outlive one of them."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence

from dicom_node.core.job import JobKind
from dicom_node.node.base import Base
from dicom_node.node.values import breaker_of, now
from dicom_node.store.jobs import ClaimedJob
from dicom_node.supervise import EXIT_HUNG, report_ready
from dicom_node.telemetry.log import where
from dicom_node.work.gate import Gate
from dicom_node.work.loop import Lane, WorkLoop
from dicom_node.work.outcome import Handler

log = logging.getLogger(__name__)


def serve_lanes(
    base: Base,
    lanes: Mapping[Lane, Handler],
    report: Mapping[str, str],
    has_room: Callable[[], bool] = lambda: True,
) -> None:
    """One thread for each lane, so that none waits for another."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    loops = [
        WorkLoop(
            lane,
            base.database,
            base.bells,
            handler,
            owner=owner,
            clock=now,
            on_hang=_leave,
            gate=_gate_of(base, lane),
            has_room=has_room,
            last_end=base.last_end,
        )
        for lane, handler in lanes.items()
    ]
    threads = [threading.Thread(target=_run_or_leave, args=(loop, base.stop)) for loop in loops]
    for thread in threads:
        thread.start()
    report_ready(**report)
    for thread in threads:
        thread.join()


def _gate_of(base: Base, lane: Lane) -> Gate | None:
    if lane.kind is JobKind.INFER:
        return None
    policy = breaker_of(base.config, lane.name)
    return Gate(lane.name, lane.kind, policy, base.database, now)


def _run_or_leave(loop: WorkLoop, stop: threading.Event) -> None:
    """A lane must not die while the process looks alive: then rather the whole process, and a fresh one."""
    try:
        loop.run(stop)
    except Exception as error:  # noqa: BLE001
        log.critical(
            "lane failed; the process ends",
            extra={"action": "lane-failed", "code": type(error).__name__, "where": where(error)},
        )
        os._exit(EXIT_HUNG)


def _leave(claimed: Sequence[ClaimedJob]) -> None:
    """A batch hangs, or one after the other fails: the supervisor starts a fresh process."""
    log.error("no way on; the process ends", extra={"action": "process-left", "count": len(claimed)})
    os._exit(EXIT_HUNG)
