"""One process of the node, from its lock to its end."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack

from dicom_node.config import Config
from dicom_node.core import faults
from dicom_node.node.base import Base
from dicom_node.node.people import audit_log_of
from dicom_node.node.values import layout_of, now
from dicom_node.store.database import open_database
from dicom_node.store.process import Bells, sole_holder
from dicom_node.supervise import Post, Role, end_with_parent, on_hangup, stop_on_signal
from dicom_node.telemetry.audit_trail import QueuedTrail

log = logging.getLogger(__name__)


def run_post(post: Post, config: Config, *, supervised: bool, last_end: str = "") -> None:
    """Be one process of the node until a signal, or the supervisor's end, says stop."""
    role = post.role
    stop = threading.Event()
    stop_on_signal(stop.set)
    on_hangup(lambda: None)  # the roles with certificates say what a reload is to them
    if supervised:
        end_with_parent(stop)
    os.umask(0o077)
    layout = layout_of(config)
    layout.create()
    if faults.is_armed():
        log.warning("fault points are armed; this is a test", extra={"action": "faults-armed", **post.fields})
    with ExitStack() as stack:
        stack.enter_context(sole_holder(layout.lock(post.name), post.name))
        faults.step("role.locked")
        # Every association of the receiver may write at once; the other roles have a thread for each lane.
        connections = config.listen.max_associations if role is Role.RECEIVER else 10
        database = open_database(layout.database, now(), connections=connections)
        stack.callback(database.close)
        faults.step("role.opened")
        trail = QueuedTrail(audit_log_of(config))
        stack.callback(trail.close)
        base = Base(config, layout, database, Bells(layout.bells), stop, trail, last_end)
        _work_of(role)(base)
    log.info("process ends", extra={"action": "role-end", **post.fields})


def load_shared_parts() -> None:
    """Load what the processes have in common: once, in the process that they are forked from."""
    import dicom_node.node.receiver  # noqa: F401 - never torch: it may be broken


def _work_of(role: Role) -> Callable[[Base], None]:
    """What a role does; each process imports its own part alone."""
    if role is Role.RECEIVER:
        from dicom_node.node.receiver import receive

        return receive
    if role is Role.WORKER:
        from dicom_node.node.worker import infer

        return infer
    from dicom_node.node.courier import carry

    return carry
