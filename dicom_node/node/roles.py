"""One process of the node, from its lock to its end."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from dicom_node.config import Config
from dicom_node.core import faults
from dicom_node.node.base import Base
from dicom_node.node.people import audit_log_of
from dicom_node.node.values import layout_of, now
from dicom_node.store.adoption import adopt
from dicom_node.store.database import open_database
from dicom_node.store.process import Bells, sole_holder
from dicom_node.supervise import Post, Role, end_with_parent, on_hangup, stop_on_signal
from dicom_node.telemetry.audit_trail import QueuedTrail

if TYPE_CHECKING:
    from dicom_node.network.entrance import Entrance

log = logging.getLogger(__name__)


def run_post(
    post: Post,
    config: Config,
    *,
    supervised: bool,
    last_end: str = "",
    entrance: Entrance | None = None,
) -> None:
    """Be one process of the node until a signal, or the supervisor's end, says stop.

    entrance  what a receiver shares with others; None: it is the only one.
    """
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
        connections = config.listen.max_associations if post.role is Role.RECEIVER else 10
        database = open_database(layout.database, now(), connections=connections)
        stack.callback(database.close)
        adopt(database, layout)
        faults.step("role.opened")
        trail = QueuedTrail(audit_log_of(config))
        stack.callback(trail.close)
        base = Base(config, layout, database, Bells(layout.bells), stop, trail, last_end)
        _work_of(post, config, entrance)(base)
    log.info("process ends", extra={"action": "role-end", **post.fields})


def _work_of(post: Post, config: Config, entrance: Entrance | None) -> Callable[[Base], None]:
    """What a process does; each imports its own part alone."""
    if post.role is Role.RECEIVER:
        from dicom_node.node.receiver import entrance_of, receive

        return partial(receive, entrance=entrance or entrance_of(config, processes=1), post=post)
    if post.role is Role.WORKER:
        from dicom_node.node.worker import infer

        return infer
    from dicom_node.node.courier import carry

    return carry
