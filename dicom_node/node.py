"""Composition root: turns a configuration into running parts. Knows everybody; nobody knows it."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.config import DEFAULT_BUNDLE_NAME, Config
from dicom_node.config.sections import Destination, DestinationTls, ListenTls, SyslogSection
from dicom_node.core import faults
from dicom_node.core.access import Access
from dicom_node.core.access import Role as Rank
from dicom_node.core.breaker import BreakerPolicy
from dicom_node.core.errors import BundleUnusable, ListenFailed, NodeError, PredictionFailed
from dicom_node.core.identity import is_loopback
from dicom_node.core.job import JobKind, RetryPolicy
from dicom_node.core.retention import RetentionPolicy
from dicom_node.core.room import Watermarks
from dicom_node.core.rules import PRIORITIES, DeliverWhen, Match, Route
from dicom_node.core.study import SettlePolicy
from dicom_node.dicom.label import LabelSettings
from dicom_node.dicom.reading import ReadLimits
from dicom_node.dicom.results import BundleFacts, Equipment, ResultSettings
from dicom_node.network.scu import RemoteAE
from dicom_node.network.tls import ClientTls, Verify
from dicom_node.store.database import Database, open_database
from dicom_node.store.files import Layout
from dicom_node.store.jobs import ClaimedJob
from dicom_node.store.process import Bells, sole_holder
from dicom_node.store.room import DiskRoom
from dicom_node.supervise import EXIT_HUNG, Role, end_with_parent, on_hangup, report_ready, stop_on_signal
from dicom_node.telemetry.audit_log import AuditLog
from dicom_node.telemetry.audit_message import AuditSource
from dicom_node.telemetry.audit_trail import NO_AUDIT, AuditTrail, DirectTrail, QueuedTrail
from dicom_node.telemetry.log import where
from dicom_node.trust.certificates import CertificateName, Expiry
from dicom_node.trust.contexts import Profile, TlsFiles, client_context, server_context
from dicom_node.trust.credentials import Credentials
from dicom_node.trust.files import Secret, check_private
from dicom_node.trust.watch import PeerCertificates, expiries, peer_expiries
from dicom_node.trust.watch import report as report_expiries

if TYPE_CHECKING:
    from dicom_node.network.qido import QidoServer
    from dicom_node.telemetry.audit_syslog import Forwarder
    from dicom_node.work.deliver import Archive
    from dicom_node.work.gate import Gate
    from dicom_node.work.loop import Handler, Lane, WorkLoop
    from dicom_node.work.make import Appearance, Elastogram, Frame, Model, Predicts

log = logging.getLogger(__name__)

_DRAIN_S = 20.0
_FOLLOW_CERTIFICATES_S = 60.0
_REPORT_EXPIRY_S = 86400.0
_ROOM_LOOK_S = 1.0
WORKER_SHARE = 0.5
"""Of the watermarks. What is below is the reserve of the database and the courier, which only shrinks the
need for room: it confirms, and so lets copies go."""
_DELIVER_BATCH = 100
_CONFIRM_BATCH = 500
_CONFIRM_POLICY = RetryPolicy(first_delay_s=1.0, factor=2.0, cap_s=3600.0, jitter=0.1)
_INFER_POLICY = RetryPolicy(first_delay_s=0.5, factor=4.0, cap_s=60.0, jitter=0.1)


def now() -> datetime:
    """The clock that every part is given."""
    return datetime.now(UTC)


def software_version() -> str:
    """Version of this program."""
    return version("emode")


# -- configuration to plain values ------------------------------------------------------------


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


def remotes_of(config: Config, trail: AuditTrail = NO_AUDIT) -> dict[str, RemoteAE]:
    """The destinations as application entities; associations with them are told to `trail`."""
    return {
        name: RemoteAE(
            name=name,
            ae_title=section.ae_title,
            host=section.host,
            port=section.port,
            calling_ae_title=section.calling_ae_title,
            connect_timeout_s=section.connect_timeout_s,
            answer_timeout_s=section.answer_timeout_s,
            tls=_client_tls(name, section),
            trail=trail,
        )
        for name, section in config.destinations.items()
    }


def _client_tls(name: str, section: Destination) -> ClientTls | None:
    if section.tls is None:
        return None
    verify = Verify(section.tls.verify)
    return ClientTls(
        Credentials(
            _files_of(f"destinations.{name}.tls", section.tls),
            lambda files: client_context(files, now(), check_host=verify is Verify.HOST),
        ),
        server_name=section.tls.server_name or section.host,
        verify=verify,
        fingerprints=frozenset(section.tls.fingerprints),
    )


def listening_credentials(config: Config) -> Credentials | None:
    """The identity that callers over TLS see, if there is such a listener."""
    section = config.listen.tls
    if section is None:
        return None
    return Credentials(
        _files_of("listen.tls", section),
        lambda files: server_context(files, now(), require_certificate=section.require_certificate),
    )


def listening_on(config: Config) -> list[tuple[str, int]]:
    """The ways in: what is spoken, and on which port."""
    ways = [("plain DICOM", config.listen.port)] if config.listen.port is not None else []
    return [*ways, *([("TLS", config.listen.tls.port)] if config.listen.tls else [])]


def all_credentials(config: Config) -> list[Credentials]:
    """Every identity of this node, in and out."""
    listening = listening_credentials(config)
    calling = [remote.tls.credentials for remote in remotes_of(config).values() if remote.tls]
    collecting = collector_credentials(config)
    return [*([listening] if listening else []), *calling, *([collecting] if collecting else [])]


def certificate_problems(config: Config) -> list[str]:
    """What is wrong with the files of TLS, and with secrets, as they are now: file, fact, next step."""
    problems = []
    for credentials in all_credentials(config):
        try:
            credentials.try_files()
        except NodeError as error:
            problems.append(f"{credentials.files.name}: {error}")
    for name, section in config.destinations.items():
        if section.qido_authorization_file is not None:
            try:
                check_private(section.qido_authorization_file)
            except NodeError as error:
                problems.append(f"destinations.{name}.qido_authorization_file: {error}")
    return problems


def certificate_expiries(config: Config) -> list[Expiry]:
    """Every certificate in use, those that peers showed too, the first to end first."""
    warn_days = config.certificates.warn_days
    files = [credentials.files for credentials in all_credentials(config)]
    seen = peer_expiries(layout_of(config).peer_certificates, now(), warn_days)
    return sorted([*expiries(files, now(), warn_days), *seen], key=lambda expiry: expiry.ends)


def _files_of(name: str, section: ListenTls | DestinationTls | SyslogSection) -> TlsFiles:
    return TlsFiles(
        name=name,
        certificate=section.certificate,
        key=section.key,
        password=Secret(section.key_password_file, section.key_password_env),
        trust=section.trust,
        profile=Profile(section.profile),
    )


def archives_of(config: Config, trail: AuditTrail = NO_AUDIT) -> dict[str, Archive]:
    """The destinations as archives that results are delivered to."""
    from dicom_node.work.deliver import Archive

    return {
        name: Archive(
            remote=remote,
            confirm=config.destinations[name].confirm != "none",
            confirm_delay_s=config.destinations[name].confirm_delay_s,
            max_attempts=config.destinations[name].retry.max_attempts,
        )
        for name, remote in remotes_of(config, trail).items()
    }


def breaker_of(config: Config, destination: str) -> BreakerPolicy:
    """When a destination is left alone."""
    section = config.destinations[destination].breaker
    pauses = RetryPolicy(first_delay_s=section.first_pause_s, factor=2.0, cap_s=section.cap_s)
    return BreakerPolicy(failures=section.failures, pauses=pauses)


def qido_servers_of(config: Config) -> dict[str, QidoServer]:
    """The destinations that answer QIDO-RS, by name."""
    from dicom_node.network.qido import QidoServer

    return {
        name: QidoServer(
            name, section.qido_url, Secret(section.qido_authorization_file), section.answer_timeout_s
        )
        for name, section in config.destinations.items()
        if section.qido_url is not None
    }


def appearance_of(config: Config) -> Appearance:
    """What results look like and say."""
    from dicom_node.work.make import Appearance

    section = config.results
    label = LabelSettings(
        text=section.label.text,
        soft=section.label.soft,
        hard=section.label.hard,
        layout=section.layout,
        font_file=section.label.font_file,
    )
    label.check()  # a wording that the font cannot write is a mistake in the configuration
    return Appearance(
        label=label,
        results=ResultSettings(
            series_description=section.series_description,
            series_number_base=section.series_number_base,
        ),
        equipment=Equipment(
            manufacturer=config.equipment.manufacturer,
            model_name=config.equipment.model_name,
            device_serial=config.equipment.device_serial_number,
            software_version=software_version(),
            station_name=config.equipment.station_name,
            institution=config.equipment.institution_name,
        ),
    )


def memory_limits_of(config: Config) -> dict[Role, int]:
    """MiB that each process may hold in memory."""
    other = config.limits.process_memory_mib
    return {
        Role.RECEIVER: other,
        Role.WORKER: config.inference.memory_mib,
        Role.COURIER: other,
    }


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


def read_limits_of(config: Config) -> ReadLimits:
    """What the intake gate refuses to decode."""
    limits = config.limits
    return ReadLimits(
        max_pixels=limits.decoded_megapixels * 1_000_000,
        max_frames=limits.frames,
        max_total_pixels=limits.total_megapixels * 1_000_000,
    )


def models_of(config: Config, names: Sequence[str]) -> dict[str, Model]:
    """Load bundles and start their predictors. The only function that imports torch."""
    from dicom_node.work.make import Model
    from model.bundle import DEFAULT_BUNDLE, read_bundle
    from model.errors import ModelError
    from model.predict import Predictor

    models = {}
    for name in names:
        where = config.bundles[name]
        section = config.inference
        try:
            bundle = read_bundle(DEFAULT_BUNDLE if where == DEFAULT_BUNDLE_NAME else Path(where))
            predictor = Predictor(
                bundle, device=section.device, precision=section.precision, threads=section.threads
            )
        except ModelError as error:
            raise BundleUnusable(f'"{name}" ({where}): {error}') from error
        facts = BundleFacts(
            name=bundle.name,
            version=bundle.version,
            weights_sha256=bundle.weights_sha256,
            colormap=f"{bundle.colormap.name}-{bundle.colormap.version}",
            # A bundle that does not say where its pairs came from is labelled as simulated.
            trained_on_simulation=bundle.training.get("simulated") is not False,
        )
        joins = predictor.device != "cpu"
        models[name] = Model(_Guarded(predictor, ModelError), facts, bundle.colormap.table, joins)
        log.info(
            "bundle loaded",
            extra={"action": "bundle-loaded", "bundle": bundle.id, "device": str(predictor.device)},
        )
    return models


class _Guarded:
    """A predictor that speaks the node's errors."""

    def __init__(self, predictor: Predicts, failure: type[Exception]) -> None:
        self._predictor = predictor
        self._failure = failure

    def predict(self, frames: Sequence[Frame]) -> Sequence[Elastogram]:
        try:
            return self._predictor.predict(frames)
        except self._failure as error:
            raise PredictionFailed(str(error)) from error


def layout_of(config: Config) -> Layout:
    """Where this node's files are."""
    return Layout(config.data_dir)


# -- people and the audit trail -----------------------------------------------------------------


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


def collector_credentials(config: Config) -> Credentials | None:
    """Who we are to the collector of audit messages, if there is one."""
    section = config.audit.syslog
    if section is None:
        return None
    return Credentials(_files_of("audit.syslog", section), lambda files: client_context(files, now()))


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


# -- the processes ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Base:
    """What every process opens first."""

    config: Config
    layout: Layout
    database: Database
    bells: Bells
    stop: threading.Event
    trail: AuditTrail
    last_end: str
    """How the process before this one ended, where the supervisor knows."""


def run_role(role: Role, config: Config, *, supervised: bool, last_end: str = "") -> None:
    """Be one process of the node until a signal, or the supervisor's end, says stop."""
    stop = threading.Event()
    stop_on_signal(stop.set)
    on_hangup(lambda: None)  # the roles with certificates say what a reload is to them
    if supervised:
        end_with_parent(stop)
    os.umask(0o077)
    layout = layout_of(config)
    layout.create()
    if faults.is_armed():
        log.warning("fault points are armed; this is a test", extra={"action": "faults-armed", "role": role})
    with ExitStack() as stack:
        stack.enter_context(sole_holder(layout.lock(role), role))
        faults.step("role.locked")
        # Every association of the receiver may write at once; the other roles have a thread for each lane.
        connections = config.listen.max_associations if role is Role.RECEIVER else 10
        database = open_database(layout.database, now(), connections=connections)
        stack.callback(database.close)
        faults.step("role.opened")
        trail = QueuedTrail(audit_log_of(config))
        stack.callback(trail.close)
        base = _Base(config, layout, database, Bells(layout.bells), stop, trail, last_end)
        {Role.RECEIVER: _receive, Role.WORKER: _infer, Role.COURIER: _carry}[role](base)
    log.info("process ends", extra={"action": "role-end", "role": role.value})


def _receive(base: _Base) -> None:
    from dicom_node.network.admission import Admission, AllowedPeer
    from dicom_node.network.audit import IncomingAudit
    from dicom_node.network.scp import ReportDesk, ScpSettings, Spooled, StoreScp
    from dicom_node.network.seats import Seats
    from dicom_node.network.server import DoorLimits, Listener
    from dicom_node.network.spool import SpoolLimits
    from dicom_node.work.commitment import Reports
    from dicom_node.work.receive import ReceiveLimits, Reception

    config = base.config
    routes = routes_of(config)
    room = DiskRoom(
        base.layout.root, watermarks_of(config), base.layout.full_sign(Role.RECEIVER), "images are"
    )
    reception = Reception(
        database=base.database,
        layout=base.layout,
        bells=base.bells,
        routes=routes,
        limits=ReceiveLimits(
            object_bytes=config.limits.object_mib << 20,
            infer_max_attempts=config.inference.max_attempts,
        ),
        room=room,
        clock=now,
    )

    def take(spooled: Spooled) -> str:
        return reception.take(
            spooled.path,
            spooled.arrival,
            sop_class_uid=spooled.sop_class_uid,
            sop_instance_uid=spooled.sop_instance_uid,
        ).study_instance_uid

    audit = IncomingAudit(base.trail)

    credentials = listening_credentials(config)
    listeners: dict[str, Listener] = {}
    if config.listen.port is not None:
        listeners["port"] = Listener(config.listen.host, config.listen.port)
    if credentials is not None and config.listen.tls is not None:
        listeners["tls_port"] = Listener(config.listen.host, config.listen.tls.port, credentials.context)
        credentials.refresh()  # what is wrong with the files is said now, not when somebody calls
        on_hangup(lambda: credentials.refresh(force=True))
    reports = Reports(base.database, base.bells, now)
    names_of: dict[str, set[str]] = {}
    for name, section in config.destinations.items():
        names_of.setdefault(section.ae_title, set()).add(name)
    routed = {route.called_ae_title for route in routes}
    asking = {d.calling_ae_title for d in config.destinations.values() if d.confirm == "commitment"}
    desk = ReportDesk(
        report_only_ae_titles=frozenset(asking - routed),
        taker=lambda title: reports.taker(names_of.get(title, set())),
    )
    settings = ScpSettings(
        listeners=tuple(listeners.values()),
        admission=Admission(
            called_ae_titles=frozenset(routed | asking),
            peers=tuple(
                AllowedPeer(
                    peer.ae_title,
                    tuple(ip_network(a) for a in peer.addresses),
                    certificates=tuple(CertificateName.parse(text) for text in peer.certificates),
                    plain=peer.plain,
                )
                for peer in config.peers
            ),
            saw_certificate=PeerCertificates(
                base.layout.peer_certificates, now, config.certificates.warn_days
            ).see,
            accept_unknown_peers=config.accept_unknown_peers,
            seats=Seats(config.listen.max_associations, config.listen.max_associations_per_peer),
            tell_rejected=audit.rejected,
        ),
        door=DoorLimits(
            max_associations=config.listen.max_associations,
            max_waiting=config.listen.max_waiting,
            max_waiting_per_address=config.listen.max_waiting_per_address,
            request_timeout_s=config.listen.request_timeout_s,
            max_duration_s=config.listen.max_duration_s,
        ),
        max_pdu_bytes=config.listen.max_pdu_bytes,
        idle_timeout_s=config.listen.idle_timeout_s,
        spool=SpoolLimits(
            folder=base.layout.incoming,
            object_bytes=reception.limits.object_bytes,
            require_room=room.require,
        ),
    )
    # We hold the receiver's lock: whatever an earlier one was spooling will never be finished.
    for left in base.layout.incoming.glob("tmp*"):
        left.unlink(missing_ok=True)
    scp = StoreScp(settings, take, desk, audit)
    try:
        ports = dict(zip(listeners, scp.start(), strict=True))
    except OSError as error:
        tried = " or ".join(str(listener.port) for listener in listeners.values())
        raise ListenFailed(f"{config.listen.host}:{tried}: {error.strerror}") from error
    if config.accept_unknown_peers:
        log.warning("anybody may call this node", extra={"action": "accept-unknown-peers"})
    if "port" in ports and not is_loopback(config.listen.host):
        log.warning(
            "PLAIN DICOM, not encrypted, is open to the network; set listen.tls, and listen.port: null",
            extra={"action": "plain-dicom", "address": config.listen.host, "port": ports["port"]},
        )
    report_ready(**ports)
    followed_at = time.monotonic()
    while not base.stop.wait(_ROOM_LOOK_S):
        room.has_room()  # to say so when it changes while nobody sends
        if credentials is not None and time.monotonic() - followed_at >= _FOLLOW_CERTIFICATES_S:
            followed_at = time.monotonic()
            credentials.refresh()
    scp.stop(_DRAIN_S)


def _infer(base: _Base) -> None:
    from dicom_node.work.infer import Infer
    from dicom_node.work.loop import Lane
    from dicom_node.work.make import warm_up
    from dicom_node.work.receive import INFER_LANE

    config = base.config
    routes = {route.name: route for route in routes_of(config)}
    models = models_of(config, sorted({route.bundle for route in routes.values()}))
    appearance = appearance_of(config)
    for model in models.values():
        warm_up(model, appearance)
    # We hold the worker's lock: whatever an earlier one was writing will never be finished.
    for left in base.layout.incoming.glob("result-*"):
        left.unlink(missing_ok=True)
    handler = Infer(
        database=base.database,
        layout=base.layout,
        routes=routes,
        models=models,
        appearance=appearance,
        limits=read_limits_of(config),
        delivery_attempts={name: d.retry.max_attempts for name, d in config.destinations.items()},
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
    _serve_lanes(base, {lane: handler}, report={}, has_room=room.has_room)


def _carrying_lanes(base: _Base, archives: Mapping[str, Archive]) -> dict[Lane, Handler]:
    """Two for each destination: results go there, and it is seen that they are there."""
    from dicom_node.work.audited import Audited
    from dicom_node.work.deliver import Deliver
    from dicom_node.work.loop import Lane

    config = base.config
    lanes: dict[Lane, Handler] = {}
    for name, archive in archives.items():
        retry = config.destinations[name].retry
        policy = RetryPolicy(retry.first_delay_s, retry.factor, retry.cap_s)
        # As long as the slowest honest answers may take: every answer has its own time limit, so this
        # is reached only by what no time limit of the network catches.
        limit_s = 60.0 + _DELIVER_BATCH * archive.remote.answer_timeout_s
        lanes[Lane(JobKind.DELIVER, name, _DELIVER_BATCH, policy, limit_s)] = Audited(
            Deliver(archive, base.database, base.layout, base.stop.is_set),
            archive.remote,
            base.database,
            base.trail,
            now,
            sends=True,
        )
        lanes[Lane(JobKind.CONFIRM, name, _CONFIRM_BATCH, _CONFIRM_POLICY, limit_s)] = Audited(
            _prover(base, name, archive), archive.remote, base.database, base.trail, now, sends=False
        )
    return lanes


def _carry(base: _Base) -> None:
    from dicom_node.telemetry.audit_syslog import tell_head
    from dicom_node.work.receive import INFER_LANE
    from dicom_node.work.ticks import Ticks

    config = base.config
    archives = archives_of(config, base.trail)
    lanes = _carrying_lanes(base, archives)
    calling = [archive.remote.tls.credentials for archive in archives.values() if archive.remote.tls]

    def follow_certificates(*, force: bool = False) -> None:
        for credentials in calling:
            credentials.refresh(force=force)

    for name, archive in archives.items():
        if archive.remote.tls is not None and archive.remote.tls.verify is Verify.CHAIN:
            log.warning(
                "any certificate of its CA may stand in for this archive; set tls.verify",
                extra={"action": "archive-not-verified", "lane": name},
            )
    on_hangup(lambda: follow_certificates(force=True))
    ticks = Ticks(
        database=base.database,
        layout=base.layout,
        bells=base.bells,
        settle=SettlePolicy(config.settle.quiet_s, config.settle.max_wait_s),
        lanes=[(JobKind.INFER, INFER_LANE), *((lane.kind, lane.name) for lane in lanes)],
        clock=now,
        others=(
            (follow_certificates, _FOLLOW_CERTIFICATES_S),
            (lambda: report_expiries(certificate_expiries(config)), _REPORT_EXPIRY_S),
        ),
        retention=retention_of(config),
    )
    scheduler = ticks.start()
    forwarder = forwarder_of(config)
    threading.Thread(target=tell_head, args=(audit_log_of(config), base.stop), daemon=True).start()
    if forwarder is not None:
        threading.Thread(target=forwarder.run, args=(base.stop,), daemon=True).start()
    try:
        _serve_lanes(base, lanes, report={})
    finally:
        scheduler.shutdown(wait=False)


def _prover(base: _Base, name: str, archive: Archive) -> Handler:
    """What proves deliveries to a destination, in the way that its section says."""
    from dicom_node.network.qido import instances_by_qido
    from dicom_node.network.query import listed_instances
    from dicom_node.work.commitment import ConfirmByCommitment, Reports
    from dicom_node.work.confirm import ConfirmByListing
    from dicom_node.work.proof import Proof

    section = base.config.destinations[name]
    proof = Proof(archive, base.database)
    if section.confirm == "commitment":
        reports = Reports(base.database, base.bells, now)
        return ConfirmByCommitment(proof, reports, timedelta(seconds=section.commitment_timeout_s))
    if section.confirm == "qido":
        server = qido_servers_of(base.config)[name]
        return ConfirmByListing(proof, "qido", partial(instances_by_qido, server))
    # With `none` too: what an earlier configuration left to confirm is still asked for.
    return ConfirmByListing(proof, "find", partial(listed_instances, archive.remote))


def _serve_lanes(
    base: _Base,
    lanes: Mapping[Lane, Handler],
    report: Mapping[str, str],
    has_room: Callable[[], bool] = lambda: True,
) -> None:
    """One thread for each lane, so that none waits for another."""
    from dicom_node.work.loop import WorkLoop

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


def _gate_of(base: _Base, lane: Lane) -> Gate | None:
    from dicom_node.work.gate import Gate

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


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    return re.compile(pattern, re.IGNORECASE) if pattern is not None else None
