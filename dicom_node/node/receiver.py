"""The receiver: takes associations, makes objects durable, answers. Never imports torch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from errno import EADDRINUSE
from ipaddress import ip_network

from dicom_node.config import Config
from dicom_node.core.errors import ListenFailed
from dicom_node.core.identity import is_loopback
from dicom_node.network.admission import Admission, AllowedPeer
from dicom_node.network.association import AssociationLimits
from dicom_node.network.audit import IncomingAudit
from dicom_node.network.scp import ReportDesk, ScpSettings, StoreScp
from dicom_node.network.seats import Seats
from dicom_node.network.server import DoorLimits, Listener
from dicom_node.network.spool import PREFIX as SPOOL_PREFIX
from dicom_node.network.spool import SpoolLimits
from dicom_node.node.base import Base
from dicom_node.node.peers import listening_credentials
from dicom_node.node.values import FOLLOW_CERTIFICATES_S, now, routes_of, watermarks_of
from dicom_node.store.room import DiskRoom
from dicom_node.store.together import Together
from dicom_node.supervise import Role, on_hangup, report_ready
from dicom_node.trust.certificates import CertificateName
from dicom_node.trust.credentials import Credentials
from dicom_node.trust.watch import PeerCertificates
from dicom_node.work.commitment import Reports
from dicom_node.work.receive import Reception

log = logging.getLogger(__name__)

_DRAIN_S = 20.0
_ROOM_LOOK_S = 1.0


def receive(base: Base) -> None:
    """Listen until told to stop; then let open associations end.

    Raises ListenFailed.
    """
    config = base.config
    routes = routes_of(config)
    room = DiskRoom(
        base.layout.root, watermarks_of(config), base.layout.full_sign(Role.RECEIVER), "images are"
    )
    reception = Reception(
        together=Together(base.database),
        layout=base.layout,
        bells=base.bells,
        routes=routes,
        infer_max_attempts=config.inference.max_attempts,
        clock=now,
    )
    audit = IncomingAudit(base.trail)
    credentials = listening_credentials(config)
    listeners = _listeners(config, credentials)
    desk = _report_desk(base)
    settings = ScpSettings(
        listeners=tuple(listeners.values()),
        admission=_admission(base, audit, desk),
        door=DoorLimits(
            max_associations=config.listen.max_associations,
            max_waiting=config.listen.max_waiting,
            max_waiting_per_address=config.listen.max_waiting_per_address,
            request_timeout_s=config.listen.request_timeout_s,
            max_duration_s=config.listen.max_duration_s,
        ),
        association=AssociationLimits(
            max_pdu_bytes=config.listen.max_pdu_bytes,
            idle_timeout_s=config.listen.idle_timeout_s,
            spool=SpoolLimits(
                folder=base.layout.incoming,
                object_bytes=config.limits.object_mib << 20,
                require_room=room.require,
            ),
        ),
    )
    # We hold the receiver's lock: whatever an earlier one was spooling will never be finished.
    for left in base.layout.incoming.glob(f"{SPOOL_PREFIX}*"):
        left.unlink(missing_ok=True)
    if credentials is not None:
        credentials.refresh()  # what is wrong with the files is said now, not when somebody calls
        on_hangup(lambda: credentials.refresh(force=True))
    scp = StoreScp(settings, reception.take, desk, audit)
    try:
        ports = dict(zip(listeners, scp.start(), strict=True))
    except OSError as error:
        tried = " or ".join(str(listener.port) for listener in listeners.values())
        why = os.strerror(error.errno) if error.errno else str(error.strerror)
        cure = f"; another program has it: ss -ltnp 'sport = :{tried}'" if error.errno == EADDRINUSE else ""
        raise ListenFailed(f"{config.listen.host}:{tried}: {why}{cure}") from error
    _say_what_is_open(config, ports)
    report_ready(**ports)
    followed_at = time.monotonic()
    while not base.stop.wait(_ROOM_LOOK_S):
        room.has_room()  # to say so when it changes while nobody sends
        if credentials is not None and time.monotonic() - followed_at >= FOLLOW_CERTIFICATES_S:
            followed_at = time.monotonic()
            credentials.refresh()
    scp.stop(_DRAIN_S)


def _listeners(config: Config, credentials: Credentials | None) -> dict[str, Listener]:
    """The ways in, by the name under which their port is reported."""
    listeners = {}
    if config.listen.port is not None:
        listeners["port"] = Listener(config.listen.host, config.listen.port)
    if credentials is not None and config.listen.tls is not None:
        listeners["tls_port"] = Listener(config.listen.host, config.listen.tls.port, credentials.context)
    return listeners


def _report_desk(base: Base) -> ReportDesk:
    """Who takes the reports of archives on what they have committed to."""
    reports = Reports(base.database, base.bells, now)
    names_of: dict[str, set[str]] = {}
    for name, section in base.config.destinations.items():
        names_of.setdefault(section.ae_title, set()).add(name)
    return ReportDesk(
        report_only_ae_titles=frozenset(_asking(base.config) - _routed(base.config)),
        taker=lambda title: reports.taker(names_of.get(title, set())),
    )


def _routed(config: Config) -> set[str]:
    return {route.called_ae_title for route in config.routes}


def _asking(config: Config) -> set[str]:
    return {d.calling_ae_title for d in config.destinations.values() if d.confirm == "commitment"}


def _admission(base: Base, audit: IncomingAudit, desk: ReportDesk) -> Admission:
    config = base.config
    peers = tuple(
        AllowedPeer(
            peer.ae_title,
            tuple(ip_network(a) for a in peer.addresses),
            certificates=tuple(CertificateName.parse(text) for text in peer.certificates),
            plain=peer.plain,
        )
        for peer in config.peers
    )
    seen = PeerCertificates(base.layout.peer_certificates, now, config.certificates.warn_days)
    return Admission(
        called_ae_titles=frozenset(_routed(config)) | desk.report_only_ae_titles,
        peers=peers,
        saw_certificate=seen.see,
        accept_unknown_peers=config.accept_unknown_peers,
        seats=Seats(config.listen.max_associations, config.listen.max_associations_per_peer),
        tell_rejected=audit.rejected,
    )


def _say_what_is_open(config: Config, ports: Mapping[str, int]) -> None:
    if config.accept_unknown_peers:
        log.warning("anybody may call this node", extra={"action": "accept-unknown-peers"})
    if "port" in ports and not is_loopback(config.listen.host):
        log.warning(
            "PLAIN DICOM, not encrypted, is open to the network; set listen.tls, and listen.port: null",
            extra={"action": "plain-dicom", "address": config.listen.host, "port": ports["port"]},
        )
