"""Who may associate: titles, addresses, and the standard's reason for everybody else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from dicom_node.core.image import Arrival
from dicom_node.network.negotiation import Rejection
from dicom_node.network.seats import Seats
from dicom_node.network.tls import Agreed
from dicom_node.telemetry.log import where
from dicom_node.trust.certificates import Certificate, CertificateName

log = logging.getLogger(__name__)

# PS3.8 9.3.4: rejected permanent (1) by the service user (1).
_CALLING_NOT_RECOGNISED = Rejection(0x01, 0x01, 0x03)
_CALLED_NOT_RECOGNISED = Rejection(0x01, 0x01, 0x07)
# Rejected transient (2) by the presentation layer's provider (3): senders try again.
_LOCAL_LIMIT_EXCEEDED = Rejection(0x02, 0x03, 0x02)


@dataclass(frozen=True, slots=True)
class AllowedPeer:
    """A calling AE title, the networks it may call from, and how.

    certificates  those it may call with, and then never without one; empty: any that is trusted
    plain         may it call over plain DICOM?
    """

    ae_title: str
    networks: tuple[IPv4Network | IPv6Network, ...]
    certificates: tuple[CertificateName, ...] = ()
    plain: bool = True

    def may_use(self, *, encrypted: bool, certificate: Certificate | None) -> bool:
        """May it call over this kind of connection, with this certificate?"""
        if not encrypted and not self.plain:
            return False
        if not self.certificates:
            return True
        return certificate is not None and any(name.names(certificate) for name in self.certificates)


@dataclass(frozen=True, slots=True)
class Admission:
    """The closed list, and what holds everybody to it."""

    called_ae_titles: frozenset[str]
    peers: tuple[AllowedPeer, ...]
    accept_unknown_peers: bool
    seats: Seats
    saw_certificate: Callable[[str, Certificate], None] = lambda peer, certificate: None
    """Told of the certificate that an admitted peer showed."""
    tell_rejected: Callable[[Arrival, str], None] = lambda arrival, words: None
    """For the audit trail."""

    def admit(self, guest: object, arrival: Arrival, agreed: Agreed | None) -> Rejection | None:
        """None for who is on the list: `guest` then has a seat. For everybody else the standard's reason."""
        try:
            return self._judge(guest, arrival, agreed)
        except Exception as error:  # noqa: BLE001 - a gate that fails must stay shut
            log.error(
                "admission failed",
                extra={"action": "admission-failed", "code": type(error).__name__, "where": where(error)},
            )
            return _CALLING_NOT_RECOGNISED

    def _judge(self, guest: object, arrival: Arrival, agreed: Agreed | None) -> Rejection | None:
        certificate = agreed.peer if agreed else None
        refusal = self._refusal(arrival, agreed) or self._no_seat(guest, arrival)
        fields = {
            "peer": arrival.calling_ae_title,
            "called": arrival.called_ae_title,
            "address": arrival.address,
            "fingerprint": certificate.fingerprint if certificate else None,
        }
        if refusal is None:
            if certificate is not None:
                self.saw_certificate(arrival.calling_ae_title, certificate)
            log.info("association requested", extra={"action": "association-requested", **fields})
            return None
        rejection, words = refusal
        log.warning(
            "association rejected", extra={"action": "association-rejected", "status": words, **fields}
        )
        self.tell_rejected(arrival, words)
        return rejection

    def _refusal(self, arrival: Arrival, agreed: Agreed | None) -> tuple[Rejection, str] | None:
        """The standard's reason, which tells a stranger nothing more, and ours for the log."""
        if arrival.called_ae_title not in self.called_ae_titles:
            return _CALLED_NOT_RECOGNISED, "called AE title not recognised"
        if not arrival.calling_ae_title:
            return _CALLING_NOT_RECOGNISED, "no calling AE title"
        titled = [peer for peer in self.peers if peer.ae_title == arrival.calling_ae_title]
        if not titled:
            if self.accept_unknown_peers:
                return None
            return _CALLING_NOT_RECOGNISED, "calling AE title not recognised"
        address = ip_address(arrival.address)
        # A dual-stack socket shows IPv4 callers as ::ffff:10.1.2.3.
        address = getattr(address, "ipv4_mapped", None) or address
        here = [peer for peer in titled if any(address in network for network in peer.networks)]
        if not here and not self.accept_unknown_peers:
            return _CALLING_NOT_RECOGNISED, "address not listed for this AE title"
        # Who lets anybody call still means what is said of those that are listed.
        certificate = agreed.peer if agreed else None
        encrypted = agreed is not None
        if any(peer.may_use(encrypted=encrypted, certificate=certificate) for peer in here or titled):
            return None
        what = "certificate not listed" if encrypted else "plain DICOM not allowed"
        return _CALLING_NOT_RECOGNISED, f"{what} for this AE title"

    def _no_seat(self, guest: object, arrival: Arrival) -> tuple[Rejection, str] | None:
        words = self.seats.take(guest, (arrival.calling_ae_title, arrival.address))
        return (_LOCAL_LIMIT_EXCEEDED, words) if words else None
