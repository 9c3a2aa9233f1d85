"""What the audit trail is told of associations: who came, what was transferred, how it ended."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from dicom_node.core.image import Arrival
from dicom_node.telemetry.audit_message import Actor, AuditEvent, AuditKind, ObjectKind, Outcome, Part, Thing
from dicom_node.telemetry.audit_trail import AuditTrail

_TELL_AFTER = 500
"""Instances of one association after which it is told what came so far; it may stay open for days."""

_TELL_EVERY = timedelta(minutes=1)

_EACH_MINUTE = 20
"""Rejections from one address that are recorded one by one in a minute; the rest is counted."""

_MOST_ADDRESSES = 1000
_OTHERS = "others"


@dataclass(slots=True)
class _Transfer:
    """What one association brought, since it was last told."""

    since: datetime
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(study, SOP class) -> instances."""


@dataclass(slots=True)
class _Minute:
    """Rejections from one address in about a minute."""

    began: datetime
    count: int = 0


def _now() -> datetime:
    return datetime.now(UTC)


class IncomingAudit:
    """Associations that others open to us."""

    def __init__(self, trail: AuditTrail, clock: Callable[[], datetime] = _now) -> None:
        """Report to `trail`."""
        self._trail = trail
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[object, _Transfer] = {}
        self._rejected: dict[str, _Minute] = {}

    def rejected(self, arrival: Arrival, words: str) -> None:
        """Somebody was turned away at the door. A flood from one address is counted, not written out."""
        now = self._clock()
        self._tell_floods(now)
        with self._lock:
            full = len(self._rejected) >= _MOST_ADDRESSES and arrival.address not in self._rejected
            minute = self._rejected.setdefault(_OTHERS if full else arrival.address, _Minute(now))
            minute.count += 1
            if minute.count > _EACH_MINUTE:
                return
        self._alert(now, _incoming(arrival), words)

    def turned_away(self, reason: str, address: str, count: int) -> None:
        """Connections that came no further than the door: a failed TLS handshake, or no DICOM at all."""
        kind = AuditKind.TLS_FAILED if "tls" in reason.split("-") else AuditKind.ASSOCIATION_REJECTED
        actors = (Actor("unknown", Part.PEER, requestor=True, address=address),)
        words = f"{count} connection(s) turned away: {reason}"
        self._trail.record(AuditEvent(kind, self._clock(), actors, outcome=Outcome.SERIOUS, words=words))

    def began(self, association: object, arrival: Arrival) -> None:
        """An association is established; the object stands for it until it has ended."""
        now = self._clock()
        self._tell_floods(now)
        with self._lock:
            self._open[association] = _Transfer(now)
        self._trail.record(AuditEvent(AuditKind.ASSOCIATION_ACCEPTED, now, _incoming(arrival)))

    def arrived(self, association: object, arrival: Arrival, study: str, sop_class: str) -> None:
        """An instance of this study is durable."""
        now = self._clock()
        with self._lock:
            transfer = self._open.setdefault(association, _Transfer(now))
            transfer.counts[study, sop_class] += 1
            if transfer.counts.total() < _TELL_AFTER and now - transfer.since < _TELL_EVERY:
                return
            self._open[association] = _Transfer(now)
        self._tell(arrival, transfer, now)

    def ended(self, association: object, arrival: Arrival, *, released: bool) -> None:
        """An association has ended, in order or not."""
        now = self._clock()
        with self._lock:
            transfer = self._open.pop(association, _Transfer(now))
        self._tell(arrival, transfer, now)
        kind = AuditKind.ASSOCIATION_RELEASED if released else AuditKind.ASSOCIATION_ABORTED
        outcome = Outcome.SUCCESS if released else Outcome.MINOR
        self._trail.record(AuditEvent(kind, now, _incoming(arrival), outcome=outcome))

    def _tell(self, arrival: Arrival, transfer: _Transfer, now: datetime) -> None:
        actors = (
            Actor(arrival.calling_ae_title, Part.SOURCE, requestor=True, address=arrival.address),
            Actor(arrival.called_ae_title, Part.DESTINATION, also="receiver"),
        )
        for thing in studies_of(transfer.counts):
            self._trail.record(AuditEvent(AuditKind.INSTANCES_ARRIVED, now, actors, (thing,)))

    def _tell_floods(self, now: datetime) -> None:
        with self._lock:
            past = {a: m for a, m in self._rejected.items() if now - m.began >= timedelta(minutes=1)}
            for address in past:
                del self._rejected[address]
        for address, minute in past.items():
            more = minute.count - _EACH_MINUTE
            if more > 0:
                since = minute.began.isoformat(timespec="seconds")
                words = f"{more} more association(s) from here rejected in the minute from {since}"
                actors = (Actor("unknown", Part.PEER, requestor=True, address=address),)
                self._alert(now, actors, words)

    def _alert(self, now: datetime, actors: tuple[Actor, ...], words: str) -> None:
        kind = AuditKind.ASSOCIATION_REJECTED
        self._trail.record(AuditEvent(kind, now, actors, outcome=Outcome.SERIOUS, words=words))


class OutgoingAudit:
    """One association that we open."""

    def __init__(
        self,
        trail: AuditTrail,
        *,
        calling: str,
        called: str,
        address: str,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Report to `trail`."""
        self._trail, self._clock = trail, clock
        self._actors = (
            Actor(calling, Part.PEER, requestor=True, also="courier"),
            Actor(called, Part.PEER, address=address),
        )

    def established(self) -> None:
        """It began."""
        self._tell(AuditKind.ASSOCIATION_ACCEPTED, Outcome.SUCCESS)

    def rejected(self) -> None:
        """The peer did not want it."""
        self._tell(AuditKind.ASSOCIATION_REJECTED, Outcome.MINOR)

    def ended(self, *, released: bool) -> None:
        """It ended, in order or not."""
        if released:
            self._tell(AuditKind.ASSOCIATION_RELEASED, Outcome.SUCCESS)
        else:
            self._tell(AuditKind.ASSOCIATION_ABORTED, Outcome.MINOR)

    def _tell(self, kind: AuditKind, outcome: Outcome) -> None:
        self._trail.record(AuditEvent(kind, self._clock(), self._actors, outcome=outcome))


def studies_of(counts: Counter[tuple[str, str]]) -> list[Thing]:
    """(study, SOP class) -> instances, as one participant object for each study."""
    studies = dict.fromkeys(study for study, _ in counts)
    return [
        Thing(
            ObjectKind.STUDY,
            study,
            tuple((sop_class, n) for (of, sop_class), n in sorted(counts.items()) if of == study),
        )
        for study in studies
    ]


def _incoming(arrival: Arrival) -> tuple[Actor, ...]:
    return (
        Actor(arrival.calling_ae_title, Part.PEER, requestor=True, address=arrival.address),
        Actor(arrival.called_ae_title, Part.PEER, also="receiver"),
    )
