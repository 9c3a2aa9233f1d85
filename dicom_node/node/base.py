"""What every process of the node opens first."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from dicom_node.config import Config
from dicom_node.store.database import Database
from dicom_node.store.files import Layout
from dicom_node.store.process import Bells
from dicom_node.telemetry.audit_trail import AuditTrail


@dataclass(frozen=True, slots=True)
class Base:
    """What every process opens first."""

    config: Config
    layout: Layout
    database: Database
    bells: Bells
    stop: threading.Event
    trail: AuditTrail
    last_end: str
    """How the process before this one ended, where the supervisor knows."""
