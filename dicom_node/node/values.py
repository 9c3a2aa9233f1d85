"""From the configuration to the plain values that the parts take."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

from dicom_node.config import Config
from dicom_node.core.breaker import BreakerPolicy
from dicom_node.core.job import RetryPolicy
from dicom_node.core.retention import RetentionPolicy
from dicom_node.core.room import Watermarks
from dicom_node.core.rules import PRIORITIES, DeliverWhen, Match, Route
from dicom_node.store.files import Layout
from dicom_node.supervise import Post, Role

FOLLOW_CERTIFICATES_S = 60.0
"""Seconds between two looks at whether certificates and keys were exchanged."""

_MOST_RECEIVERS = 4
"""Unless told otherwise: more of them wait for each other's turn at the database."""

WORKER_SHARE = 0.5
"""Of the watermarks. What is below is the reserve of the database and the courier, which only shrinks the
need for room: it confirms, and so lets copies go."""


def now() -> datetime:
    """The clock that every part is given."""
    return datetime.now(UTC)


def software_version() -> str:
    """Version of this program."""
    return version("emode")


def layout_of(config: Config) -> Layout:
    """Where this node's files are."""
    return Layout(config.data_dir)


def routes_of(config: Config) -> tuple[Route, ...]:
    """The routes, in the order tried."""
    return tuple(
        Route(
            name=section.name,
            called_ae_title=section.called_ae_title,
            bundle=section.bundle,
            destinations=section.destinations,
            priority=PRIORITIES[section.priority],
            deliver=DeliverWhen(section.deliver),
            match=Match(
                modality=section.match.modality,
                sop_class=section.match.sop_class,
                body_part=section.match.body_part,
                calling_ae_title=section.match.calling_ae_title,
                description=_compiled(section.match.description),
                description_not=_compiled(section.match.description_not),
            ),
        )
        for section in config.routes
    )


def posts_of(config: Config) -> tuple[Post, ...]:
    """The processes of the node, in the order in which they are started."""
    receivers = (Post(Role.RECEIVER, number + 1) for number in range(receivers_of(config)))
    return (*receivers, Post(Role.WORKER), Post(Role.COURIER))


def receivers_of(config: Config) -> int:
    """How many processes take associations."""
    return config.listen.processes or min(_MOST_RECEIVERS, os.cpu_count() or 1)


def memory_limit_of(config: Config, role: Role) -> int:
    """MiB that a process of this role may hold in memory."""
    return config.inference.memory_mib if role is Role.WORKER else config.limits.process_memory_mib


def watermarks_of(config: Config) -> Watermarks:
    """Free space below which images are refused, and from which they are taken again."""
    low = config.limits.min_free_mib << 20
    resume = config.limits.resume_free_mib
    return Watermarks(low, low + low // 4 if resume is None else resume << 20)


def retention_of(config: Config) -> RetentionPolicy:
    """When local copies go."""
    section = config.retention
    unproven = {name for name, destination in config.destinations.items() if destination.confirm == "none"}
    return RetentionPolicy(
        max_age=timedelta(days=section.days) if section.days is not None else None,
        max_bytes=int(section.max_gib * 2**30) if section.max_gib is not None else None,
        accepted_is_enough=frozenset(unproven if section.accepted_is_enough else ()),
    )


def breaker_of(config: Config, destination: str) -> BreakerPolicy:
    """When a destination is left alone."""
    section = config.destinations[destination].breaker
    pauses = RetryPolicy(first_delay_s=section.first_pause_s, factor=2.0, cap_s=section.cap_s)
    return BreakerPolicy(failures=section.failures, pauses=pauses)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    return re.compile(pattern, re.IGNORECASE) if pattern is not None else None
