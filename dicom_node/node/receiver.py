"""The receiver: takes associations, makes objects durable, answers. Never imports torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from ipaddress import ip_network

from dicom_node.config import Config
from dicom_node.core.errors import ListenFailed, NodeError
from dicom_node.core.identity import is_loopback
from dicom_node.network.admission import Admission, AllowedPeer
from dicom_node.network.association import AssociationLimits
from dicom_node.network.audit import IncomingAudit
from dicom_node.network.blanks import spooled_in
from dicom_node.network.entrance import Entrance
from dicom_node.network.scp import ReportDesk, ScpSettings, StoreScp
from dicom_node.network.seats import Seats
from dicom_node.network.server import DoorLimits, Listener
from dicom_node.network.spool import SpoolLimits
from dicom_node.node.base import Base
from dicom_node.node.peers import listening_credentials
from dicom_node.node.values import FOLLOW_CERTIFICATES_S, now, routes_of, watermarks_of
from dicom_node.store.files import Layout
from dicom_node.store.process import Turn, is_held
from dicom_node.store.room import DiskRoom
from dicom_node.store.together import Together
from dicom_node.supervise import Post, Role, on_hangup, report_ready
from dicom_node.trust.certificates import CertificateName
from dicom_node.trust.credentials import Credentials
from dicom_node.trust.watch import PeerCertificates
from dicom_node.work.commitment import Reports
from dicom_node.work.receive import Reception

log = logging.getLogger(__name__)

_DRAIN_S = 20.0
_ROOM_LOOK_S = 1.0


class Premises:
    """What the supervisor holds for the receivers: their entrance, as long as one of them is there."""

    def __init__(self, entrance: Entrance, tell: Callable[[NodeError], None]) -> None:
        """tell is given what keeps the entrance shut, in words for people."""
        self.entrance = entrance
        self._tell = tell

    def prepare(self, post: Post) -> Collection[int]:
        """Listen before the first receiver starts. Raises ListenFailed."""
        if post.role is not Role.RECEIVER:
            return ()
        try:
            self.entrance.open()
        except ListenFailed as error:
            self._tell(error)
            raise
        return [bound.fileno() for bound in self.entrance.sockets.values()]

    def ended(self, post: Post, *, last: bool) -> None:
        """With the last one, callers are turned away: else they would wait until the next one has started."""
        if post.role is not Role.RECEIVER:
            return
        self.entrance.left(post.number)
        if last:
            self.entrance.close()

    def close(self) -> None:
        """Take nobody in any more."""
        self.entrance.close()


def entrance_of(config: Config, *, processes: int) -> Entrance:
    """Where so many receivers take associations; made before they are."""
    ports = {} if config.listen.port is None else {"port": config.listen.port}
    if config.listen.tls is not None:
        ports["tls_port"] = config.listen.tls.port
    return Entrance(config.listen.host, ports, processes=processes, seats=config.listen.max_associations)


def receive(base: Base, entrance: Entrance, post: Post) -> None:
    """Take associations until told to stop; then let open ones end.

    Raises ListenFailed.
    """
    config = base.config
    routes = routes_of(config)
    room = DiskRoom(
        base.layout.root, watermarks_of(config), base.layout.full_sign(Role.RECEIVER), "images are"
    )
    reception = Reception(
        together=Together(base.database, Turn(base.layout.lock("receivers"))),
        layout=base.layout,
        bells=base.bells,
        routes=routes,
        infer_max_attempts=config.inference.max_attempts,
        clock=now,
    )
    audit = IncomingAudit(base.trail)
    credentials = listening_credentials(config)
    entrance.open()
    ports = entrance.ports
    desk = _report_desk(base)
    settings = ScpSettings(
        listeners=tuple(_listeners(entrance, credentials)),
        has_more=partial(entrance.crowd.is_larger, post.number),
        tell_count=partial(entrance.crowd.note, post.number),
        admission=_admission(base, audit, desk, _seats(base, entrance, post)),
        door=DoorLimits(
            max_associations=config.listen.max_associations,
            max_waiting=_share(config.listen.max_waiting, entrance),
            max_waiting_per_address=_share(config.listen.max_waiting_per_address, entrance),
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
                number=post.number,
            ),
        ),
    )
    _remove_leftovers(base.layout, post)
    if credentials is not None:
        credentials.refresh()  # what is wrong with the files is said now, not when somebody calls
        on_hangup(lambda: credentials.refresh(force=True))
    scp = StoreScp(settings, reception.take, desk, audit)
    scp.start()
    if post.number == 1:
        _say_what_is_open(config, ports)
    report_ready(**ports)
    followed_at = time.monotonic()
    while not base.stop.wait(_ROOM_LOOK_S):
        room.has_room()  # to say so when it changes while nobody sends
        if credentials is not None and time.monotonic() - followed_at >= FOLLOW_CERTIFICATES_S:
            followed_at = time.monotonic()
            credentials.refresh()
    scp.stop(_DRAIN_S)


def _listeners(entrance: Entrance, credentials: Credentials | None) -> Iterator[Listener]:
    """The ways in."""
    for name, bound in entrance.sockets.items():
        yield Listener(bound, credentials.context if credentials is not None and name != "port" else None)


def _seats(base: Base, entrance: Entrance, post: Post) -> Seats:
    listen = base.config.listen
    return Seats(
        listen.max_associations,
        listen.max_associations_per_peer,
        entrance.seats,
        post.number,
        base.layout.lock("seats"),
    )


def _share(limit: int, entrance: Entrance) -> int:
    return max(1, limit // entrance.processes)


def _remove_leftovers(layout: Layout, post: Post) -> None:
    """What a receiver that is gone was spooling will never be finished; ours is, for we hold its lock."""
    for path, number in spooled_in(layout.incoming):
        maker = Post(Role.RECEIVER, number)
        if maker == post or not is_held(layout.lock(maker.name)):
            path.unlink(missing_ok=True)


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


def _admission(base: Base, audit: IncomingAudit, desk: ReportDesk, seats: Seats) -> Admission:
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
        seats=seats,
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
