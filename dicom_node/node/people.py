"""Who may do what here, and the audit trail that remembers it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from dicom_node.config import Config
from dicom_node.core.access import Access
from dicom_node.core.access import Role as Rank
from dicom_node.node.peers import collector_credentials
from dicom_node.node.values import layout_of
from dicom_node.telemetry.audit_log import AuditLog
from dicom_node.telemetry.audit_message import AuditSource
from dicom_node.telemetry.audit_trail import DirectTrail

if TYPE_CHECKING:
    from dicom_node.telemetry.audit_syslog import Forwarder


def access_of(config: Config) -> Access:
    """Who may do what."""
    section = config.access
    return Access(
        {
            Rank.VIEWER: frozenset(section.viewers),
            Rank.OPERATOR: frozenset(section.operators),
            Rank.ADMIN: frozenset(section.admins),
        }
    )


def audit_log_of(config: Config) -> AuditLog:
    """The audit trail on disk."""
    source = AuditSource(
        config.equipment.station_name or socket.gethostname(), config.equipment.institution_name
    )
    return AuditLog(layout_of(config).audit, source, segment_bytes=config.audit.segment_mib << 20)


def audit_of(config: Config) -> DirectTrail:
    """The audit trail for commands and the supervisor: on disk before they go on."""
    return DirectTrail(audit_log_of(config))


def forwarder_of(config: Config) -> Forwarder | None:
    """What sends the trail to the collector, if there is one."""
    from dicom_node.network.collector import Collector
    from dicom_node.telemetry.audit_syslog import Cursor, Forwarder

    section, credentials = config.audit.syslog, collector_credentials(config)
    if section is None or credentials is None:
        return None
    collector = Collector(
        section.host, section.port, section.server_name or section.host, credentials, section.timeout_s
    )
    audit = audit_log_of(config)
    return Forwarder(audit, Cursor(audit.folder / "syslog"), collector.connect, host=socket.gethostname())
