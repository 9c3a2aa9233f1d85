"""An association that a peer opened: one thread, which reads, serves and answers in turn (PS3.8 9.2).

pynetdicom's acceptor has two threads for each association that look for work every millisecond, and hands
every PDU, message and answer from one to the other: that alone took longer than making an image durable. It
also waits without end for peers that break rules in the middle of a message; `test_network_door.py` shows
how. Here the thread sleeps in the kernel until the peer speaks. States 2, 3, 6, 8 and 13 of the standard's
machine are places in `run`; the others belong to those who call.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from pynetdicom.presentation import PresentationContext

from dicom_node.core.image import Arrival
from dicom_node.network.adapter import prepare_socket
from dicom_node.network.command import response_to
from dicom_node.network.messages import Inbox, Message
from dicom_node.network.negotiation import AssociationRequest, Rejection
from dicom_node.network.pdu import (
    A_ABORT,
    A_RELEASE_RQ,
    ABORT_BY_PROVIDER,
    P_DATA_TF,
    RELEASE_RESPONSE,
    PduReader,
    PeerGone,
    PeerSilent,
    command_pdus,
    fragments_of,
    see_off,
)
from dicom_node.network.rules import BrokenRule
from dicom_node.network.server import Arrived
from dicom_node.network.spool import SpoolLimits
from dicom_node.network.tls import Agreed, agreed_on
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """What one association may cost."""

    max_pdu_bytes: int
    idle_timeout_s: float
    spool: SpoolLimits


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Served:
    """What came of a request."""

    status: int
    afterwards: Callable[[], None] = _nothing
    """What can wait until the peer has its answer. Called once, whether or not it takes the answer."""


class Host(Protocol):
    """Who decides about associations and serves them. Called from the association's thread."""

    def admit(self, guest: Association, agreed: Agreed | None) -> Rejection | None:
        """Let it in (None), or say how it is rejected. Must not raise."""

    def offered_to(self, arrival: Arrival) -> Sequence[PresentationContext]:
        """What this peer may agree on."""

    def began(self, guest: Association) -> None:
        """The association is established."""

    def serve(self, guest: Association, message: Message) -> Served:
        """Do what a request asks. Must not raise."""

    def answered(self, guest: Association, message: Message) -> None:
        """The answer is on its way."""

    def ended(self, guest: Association, *, released: bool) -> None:
        """An association that had been established has ended."""


class Association:
    """One association, from its A-ASSOCIATE-RQ to its end; nothing of it is left afterwards."""

    def __init__(self, host: Host, limits: AssociationLimits, arrived: Arrived) -> None:
        """Prepare; `start` runs it. The connection's A-ASSOCIATE-RQ has been read already."""
        self._host, self._limits = host, limits
        self._socket = arrived.socket
        self._request = arrived.request
        self._left: Callable[[Association], None] = arrived.left
        self._wants_abort = False
        self._thread = threading.Thread(
            target=self._run, name=f"association@{arrived.address[0]}:{arrived.address[1]}", daemon=True
        )
        self.arrival = Arrival("", "", arrived.address[0])
        """Who calls and whom; the titles are known once the request has been read."""

    def start(self) -> None:
        """Start its thread; RuntimeError if there is none to be had."""
        self._thread.start()

    def abort(self) -> None:
        """Ask it to end with an A-ABORT; what it is serving comes first. From any thread."""
        self._wants_abort = True
        with suppress(OSError):
            # Past a TLS layer, which would drop its keys: the abort has to be written yet.
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def cut(self) -> None:
        """End the connection at once; the thread sees it and ends. From any thread."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    # -- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            prepare_socket(self._socket, self._limits.idle_timeout_s)
            self._live()
        except PeerGone:
            if self._wants_abort:
                self._say_last(ABORT_BY_PROVIDER)
        except PeerSilent:
            self._give_up("peer-silent")
        except BrokenRule as rule:
            self._give_up(str(rule))
        except Exception as error:  # noqa: BLE001 - of this association; the others know nothing of it
            self._give_up(f"{type(error).__name__} at {where(error)}")
        finally:
            try:
                with suppress(OSError):
                    self._socket.close()
            finally:
                self._left(self)

    def _live(self) -> None:
        """State 2 and 3: judge the request, then serve; raises what ends the association badly."""
        request = AssociationRequest(self._request)
        self.arrival = Arrival(request.calling_ae_title, request.called_ae_title, self.arrival.address)
        rejection = self._host.admit(self, agreed_on(self._socket))
        if rejection is not None:
            self._say_last(rejection.encode())
            return
        answer, contexts = request.accept(self._host.offered_to(self.arrival), self._limits.max_pdu_bytes)
        self._send(answer)
        self._host.began(self)
        released = False
        inbox = Inbox(contexts, self._limits.spool)
        try:
            self._serve(inbox, request.longest_pdu)
            released = True
        finally:
            inbox.close()
            self._host.ended(self, released=released)
        self._say_last(RELEASE_RESPONSE)

    def _serve(self, inbox: Inbox, longest: int) -> None:
        """State 6, until the peer asks for release."""
        reader = PduReader(self._socket, self._limits.max_pdu_bytes, self._limits.idle_timeout_s)
        while True:
            kind, body = reader.read()
            if kind == P_DATA_TF:
                for fragment in fragments_of(body):
                    message = inbox.take(fragment)
                    if message is not None:
                        self._answer(message, longest)
                        if message.spool is not None:
                            inbox.prepare()
            elif kind == A_RELEASE_RQ:
                return
            elif kind == A_ABORT:
                raise PeerGone
            else:
                raise BrokenRule("pdu-unexpected")

    def _answer(self, message: Message, longest: int) -> None:
        try:
            served = self._host.serve(self, message)
            try:
                answer = response_to(message.command, served.status)
                self._send(command_pdus(message.context_id, answer, longest))
                self._host.answered(self, message)
            finally:
                served.afterwards()
        finally:
            if message.spool is not None:
                message.spool.remove()  # what was kept has another name by now

    # -- words ------------------------------------------------------------------------------

    def _send(self, encoded: bytes) -> None:
        """Raises PeerGone, PeerSilent if it does not read."""
        try:
            self._socket.settimeout(self._limits.idle_timeout_s)
            self._socket.sendall(encoded)
        except TimeoutError as error:
            raise PeerSilent from error
        except OSError as error:
            raise PeerGone from error

    def _say_last(self, encoded: bytes) -> None:
        """State 13: say this, wait a moment for the peer to close."""
        with suppress(PeerGone, PeerSilent):
            self._send(encoded)
            see_off(self._socket)

    def _give_up(self, code: str) -> None:
        log.warning(
            "association ends for what its peer sent",
            extra={"action": "peer-broke-rules", "code": code, "address": self.arrival.address},
        )
        self._say_last(ABORT_BY_PROVIDER)
