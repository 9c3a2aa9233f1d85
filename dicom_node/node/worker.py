"""The worker: judges, runs the model, builds results. Never opens a network connection."""

from __future__ import annotations

import gc
import os

import cv2

from dicom_node.core.job import JobKind, RetryPolicy
from dicom_node.node.base import Base
from dicom_node.node.imaging import appearance_of, read_limits_of
from dicom_node.node.lanes import serve_lanes
from dicom_node.node.models import models_of
from dicom_node.node.values import WORKER_SHARE, routes_of, watermarks_of
from dicom_node.store.room import DiskRoom
from dicom_node.supervise import Role
from dicom_node.work.infer import Infer
from dicom_node.work.loop import Lane
from dicom_node.work.make import warm_up
from dicom_node.work.receive import INFER_LANE

_MOST_HELPERS = 4
"""Beyond that, what helpers do under Python's lock is in the way of the model's own calls."""

_INFER_POLICY = RetryPolicy(first_delay_s=0.5, factor=4.0, cap_s=60.0, jitter=0.1)


def shares_of(cores: int) -> tuple[int, int]:
    """How many images are worked on at a time, and how many threads of the network each of them gets.

    Not more in all than there are cores: threads of PyTorch and OpenCV that wait for each other spin, and an
    image then costs twice its work.
    """
    helpers = min(_MOST_HELPERS, cores)
    return helpers, cores // helpers


def infer(base: Base) -> None:
    """Load the bundles, then serve images until told to stop."""
    config = base.config
    routes = {route.name: route for route in routes_of(config)}
    helpers, threads = shares_of(len(os.sched_getaffinity(0)))
    cv2.setNumThreads(1)  # filters are run by the helpers, each its own
    models = models_of(config, sorted({route.bundle for route in routes.values()}), threads=threads)
    appearance = appearance_of(config)
    for model in models.values():
        warm_up(model, appearance)
    # We hold the worker's lock: whatever an earlier one was writing will never be finished.
    for left in base.layout.incoming.glob("result-*"):
        left.unlink(missing_ok=True)
    base.layout.create_result_places()
    # What is loaded by now stays: looking through all of it for what is not used any more holds every thread
    # up for a quarter of a second, at some image in a hundred.
    gc.collect()
    gc.freeze()
    handler = Infer(
        database=base.database,
        layout=base.layout,
        routes=routes,
        models=models,
        appearance=appearance,
        limits=read_limits_of(config),
        delivery_attempts={name: d.retry.max_attempts for name, d in config.destinations.items()},
        unfamiliar=config.inference.unfamiliar,
        helpers=helpers,
    )
    lane = Lane(
        JobKind.INFER,
        INFER_LANE,
        batch=config.inference.batch_size,
        policy=_INFER_POLICY,
        time_limit_s=config.inference.time_limit_s,
        retries_alone=True,
        pulse=handler.pulse,
    )
    marks = watermarks_of(config).lowered(WORKER_SHARE)
    room = DiskRoom(base.layout.root, marks, base.layout.full_sign(Role.WORKER), "inference is")
    serve_lanes(base, {lane: handler}, report={}, has_room=room.has_room)
