"""The courier: delivers, proves, and does what has to happen now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import timedelta
from functools import partial

from dicom_node.core.job import JobKind, RetryPolicy
from dicom_node.core.study import SettlePolicy
from dicom_node.network.line import Line
from dicom_node.network.qido import instances_by_qido
from dicom_node.network.query import listed_instances
from dicom_node.network.tls import Verify
from dicom_node.node.base import Base
from dicom_node.node.lanes import serve_lanes
from dicom_node.node.peers import archives_of, certificate_expiries, qido_servers_of
from dicom_node.node.people import audit_log_of, forwarder_of
from dicom_node.node.values import FOLLOW_CERTIFICATES_S, now, retention_of
from dicom_node.supervise import on_hangup
from dicom_node.telemetry.audit_syslog import tell_head
from dicom_node.trust.watch import report as report_expiries
from dicom_node.work.audited import DeliveryAudit
from dicom_node.work.commitment import ConfirmByCommitment, Reports
from dicom_node.work.confirm import ConfirmByListing
from dicom_node.work.deliver import Archive, Deliver
from dicom_node.work.loop import Lane
from dicom_node.work.outcome import Handler
from dicom_node.work.proof import Proof
from dicom_node.work.receive import INFER_LANE
from dicom_node.work.ticks import Ticks

log = logging.getLogger(__name__)

_DELIVER_BATCH = 50
"""What an urgent result waits for at most, twice; the association stays open from batch to batch."""
_CONFIRM_BATCH = 500
_CONFIRM_POLICY = RetryPolicy(first_delay_s=1.0, factor=2.0, cap_s=3600.0, jitter=0.1)
_REPORT_EXPIRY_S = 86400.0


def carry(base: Base) -> None:
    """Serve every destination until told to stop."""
    config = base.config
    archives = archives_of(config, base.trail)
    lanes = carrying_lanes(base, archives)
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
            (follow_certificates, FOLLOW_CERTIFICATES_S),
            (lambda: report_expiries(certificate_expiries(config)), _REPORT_EXPIRY_S),
        ),
        retention=retention_of(config),
        trail=base.trail,
    )
    scheduler = ticks.start()
    forwarder = forwarder_of(config)
    threading.Thread(target=tell_head, args=(audit_log_of(config), base.stop), daemon=True).start()
    if forwarder is not None:
        threading.Thread(target=forwarder.run, args=(base.stop,), daemon=True).start()
    try:
        serve_lanes(base, lanes, report={})
    finally:
        scheduler.shutdown(wait=False)


def carrying_lanes(base: Base, archives: Mapping[str, Archive]) -> dict[Lane, Handler]:
    """Two for each destination: results go there, and it is seen that they are there."""
    config = base.config
    lanes: dict[Lane, Handler] = {}
    for name, archive in archives.items():
        retry = config.destinations[name].retry
        policy = RetryPolicy(retry.first_delay_s, retry.factor, retry.cap_s)
        # As long as the slowest honest answers may take: every answer has its own time limit, so this
        # is reached only by what no time limit of the network catches.
        limit_s = 60.0 + _DELIVER_BATCH * archive.remote.answer_timeout_s
        # One for each lane: an association is for one thread.
        out, asking = (Line(archive.remote, archive.linger_s) for _ in range(2))
        sent, proven = (DeliveryAudit(archive.remote, base.trail, now, line) for line in (out, asking))
        deliver = Lane(JobKind.DELIVER, name, _DELIVER_BATCH, policy, limit_s, kept=sent, told=sent.ended)
        confirm = Lane(
            JobKind.CONFIRM, name, _CONFIRM_BATCH, _CONFIRM_POLICY, limit_s, kept=proven, told=proven.ended
        )
        lanes[deliver] = Deliver(archive, out, base.database, base.layout, sent.begun, base.stop.is_set)
        lanes[confirm] = _prover(base, name, archive, asking)
    return lanes


def _prover(base: Base, name: str, archive: Archive, line: Line) -> Handler:
    """What proves deliveries to a destination, in the way that its section says."""
    section = base.config.destinations[name]
    proof = Proof(archive, base.database)
    if section.confirm == "commitment":
        reports = Reports(base.database, base.bells, now)
        return ConfirmByCommitment(proof, reports, timedelta(seconds=section.commitment_timeout_s))
    if section.confirm == "qido":
        server = qido_servers_of(base.config)[name]
        return ConfirmByListing(proof, "qido", partial(instances_by_qido, server))
    # With `none` too: what an earlier configuration left to confirm is still asked for.
    return ConfirmByListing(proof, "find", partial(listed_instances, line))
