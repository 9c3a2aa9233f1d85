"""An association that we open: one thread, the caller's, which asks and waits in turn (PS3.8 7.1, 9.2).

pynetdicom's requestor has two threads for each association, which hand every PDU from one to the other, and a
race between them that loses answers. What it knows of PDUs and of presentation contexts is used here: see
`negotiation`.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Self

from pynetdicom.presentation import PresentationContext

from dicom_node.core.errors import (
    AssociationUnanswered,
    DestinationAborted,
    DestinationRejected,
    DestinationSilent,
    DestinationUnreachable,
    FileUnreadable,
    NodeError,
    NoPresentationContext,
    TlsFailed,
)
from dicom_node.network.adapter import prepare_socket
from dicom_node.network.audit import OutgoingAudit
from dicom_node.network.command import N_EVENT_REPORT_RQ, Answer, Command, response_to
from dicom_node.network.messages import Context, Letter, Mailbox
from dicom_node.network.negotiation import association_request, read_acceptance, read_rejection
from dicom_node.network.pdu import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    ABORT_BY_USER,
    P_DATA_TF,
    RELEASE_REQUEST,
    RELEASE_RESPONSE,
    Packer,
    PduReader,
    PeerGone,
    PeerReleased,
    PeerSilent,
    command_pdus,
    fragments_of,
)
from dicom_node.network.rules import BrokenRule
from dicom_node.network.tls import (
    Agreed,
    ClientTls,
    HandshakeFailed,
    agreed_on,
    call,
    refused_after_all,
    words_for,
)
from dicom_node.telemetry.audit_trail import NO_AUDIT, AuditTrail

_MAX_PDU = 131072
_SENT_WITHIN_LIMIT = 1 << 18
"""Bytes that a slow line has to take within `answer_timeout_s`."""
_GLANCE_S = 0.05
"""For what comes without having been asked for; over TLS there may be bytes and yet no message."""

Serve = Callable[[Command, bytes], int]
"""Does what the peer asks of us on our own association, and returns the status; must not raise."""


@dataclass(frozen=True, slots=True)
class RemoteAE:
    """Somebody we open associations to."""

    name: str
    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    connect_timeout_s: float
    answer_timeout_s: float
    tls: ClientTls | None = None
    """None: plain DICOM."""
    trail: AuditTrail = field(default=NO_AUDIT, compare=False, repr=False)

    def __str__(self) -> str:
        over = " over TLS" if self.tls else ""
        return f"{self.name} ({self.ae_title} at {self.host}:{self.port}{over})"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the data set that came with it."""

    answer: Answer
    data_set: bytes


class Requestor:
    """An established association. Leaving it as a context manager releases it; for one thread."""

    def __init__(
        self,
        remote: RemoteAE,
        connected: socket.socket,
        contexts: Sequence[PresentationContext],
        serve: Serve | None,
    ) -> None:
        """Negotiate over a connection; raises as `open_association`, and then the connection is closed."""
        self.remote = remote
        self._socket = connected
        self._serve = serve
        self._reader = PduReader(connected, _MAX_PDU, remote.answer_timeout_s)
        self._mailbox = Mailbox()
        self._came: deque[Letter] = deque()
        self._last_id = 0
        self._audit = OutgoingAudit(
            remote.trail, calling=remote.calling_ae_title, called=remote.ae_title, address=remote.host
        )
        self.agreed: Agreed | None = agreed_on(connected)
        """What protects it; None if it is plain."""
        self.contexts: Mapping[int, Context] = {}
        """What was accepted, by presentation context ID."""
        self.is_open = False
        try:
            self.contexts, self._longest = self._associate(contexts)
            self._packer = Packer(self._longest)
        except BaseException:
            self._socket.close()
            raise
        self.is_open = True
        self._audit.established()
        if not self.contexts:
            self.abort()
            raise NoPresentationContext(f"{remote}: none of them; ask its administrator to accept them")

    def _associate(self, contexts: Sequence[PresentationContext]) -> tuple[dict[int, Context], int]:
        remote = self.remote
        request = association_request(remote.calling_ae_title, remote.ae_title, contexts, _MAX_PDU)
        try:
            with suppress(PeerGone):  # it may have said why before it hung up
                self._send(request)
            kind, body = self._reader.read(remote.connect_timeout_s)
            if kind == A_ASSOCIATE_AC:
                return read_acceptance(_whole(kind, body), contexts)
            if kind == A_ASSOCIATE_RJ:
                said = read_rejection(_whole(kind, body))
                self._audit.rejected()
                raise DestinationRejected(
                    f"{remote}: {said}; check the AE titles and whether it knows {remote.calling_ae_title}"
                )
        except (PeerGone, PeerSilent, BrokenRule) as error:
            reason = refused_after_all(error.__cause__)
            if reason is not None:
                raise TlsFailed(f"{remote}: {words_for(reason)}") from error
        trusts = ", whether it trusts our certificate" if remote.tls else ""
        raise AssociationUnanswered(
            f"{remote}: it closed the connection, or said nothing for {remote.connect_timeout_s:g} s; check "
            f"the AE titles, whether it knows {remote.calling_ae_title}{trusts}, and whether the port speaks "
            "DICOM"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # -- asking -----------------------------------------------------------------------------

    def context_of(self, abstract_syntax: str) -> int | None:
        """The context in which a SOP class can be used; None if none was accepted."""
        return next(
            (key for key, one in self.contexts.items() if one.abstract_syntax == abstract_syntax), None
        )

    def ask(
        self, context_id: int, request: Callable[[int], bytes], data: tuple[BinaryIO, int] | None = None
    ) -> Reply:
        """Send a request and wait for its first answer.

        request  makes the command set, given the message ID.
        data     the data set that follows it: a file or the like at its first byte, and how many there are.

        Raises DestinationSilent, DestinationAborted, or FileUnreadable if `data` ends early; then the
        association has ended.
        """
        self.post(context_id, request, () if data is None else self.pack(context_id, *data))
        return self.reply()

    def pack(self, context_id: int, source: BinaryIO, size: int) -> Iterator[memoryview]:
        """A data set as PDUs for `post`, in pieces; the first can be made before it is time to send it."""
        return self._packer.pack(context_id, source, size)

    def post(
        self, context_id: int, request: Callable[[int], bytes], pdus: Iterable[bytes | memoryview] = ()
    ) -> None:
        """Send a request; raises as `ask`. Its answer is waited for by `reply`."""
        self._last_id = self._last_id % 0xFFFF + 1
        with self._ends_badly():
            self._send(command_pdus(context_id, request(self._last_id), self._longest))
            try:
                for some in pdus:
                    self._send(some)
            except (EOFError, OSError) as error:
                self.abort()
                raise FileUnreadable(f"{type(error).__name__} while it was sent") from error

    def reply(self) -> Reply:
        """Wait for one more answer, as to a C-FIND while its status is pending; raises as `ask`."""
        with self._ends_badly():
            while True:
                letter = self._next()
                if isinstance(letter.command, Command):
                    self._serve_peer(letter, letter.command)
                elif letter.command.message_id != self._last_id:
                    raise BrokenRule("answer-to-nothing")
                else:
                    return Reply(letter.command, letter.data_set)

    def listen(self, within_s: float) -> None:
        """Serve what the peer asks of us, if it asks within this time; raises as `ask`."""
        with self._ends_badly():
            try:
                letter = self._next(within_s)
            except PeerSilent:
                return
            if not isinstance(letter.command, Command):
                raise BrokenRule("answer-to-nothing")
            self._serve_peer(letter, letter.command)

    def is_still_there(self) -> bool:
        """Has the peer not ended it while nobody asked anything? Answers what it has said; never raises."""
        if self.is_open and self._has_something():
            with suppress(NodeError):
                self.listen(_GLANCE_S)
        return self.is_open

    def _has_something(self) -> bool:
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        except OSError:
            return True

    def release(self) -> None:
        """Ask for release and wait for the answer, if the association is still there; never raises."""
        if not self.is_open:
            return
        released = False
        with suppress(PeerGone, PeerSilent, BrokenRule):
            self._send(RELEASE_REQUEST)
            while not released:
                kind, _ = self._reader.read(self.remote.connect_timeout_s)
                if kind == A_RELEASE_RQ:  # a collision: both sides have asked (PS3.8 7.2.1.2)
                    self._send(RELEASE_RESPONSE)
                elif kind == A_ABORT:
                    break
                released = kind == A_RELEASE_RP
        self._close(released=released)

    def abort(self) -> None:
        """End it at once, if it is still there; never raises."""
        if self.is_open:
            with suppress(PeerGone, PeerSilent):
                self._send(ABORT_BY_USER)
            self._close(released=False)

    # -- the wire ---------------------------------------------------------------------------

    def _next(self, within_s: float | None = None) -> Letter:
        while not self._came:
            kind, body = self._reader.read(within_s)
            if kind == P_DATA_TF:
                for fragment in fragments_of(body):
                    letter = self._mailbox.take(fragment)
                    if letter is not None:
                        self._came.append(letter)
            elif kind == A_RELEASE_RQ:
                self._send(RELEASE_RESPONSE)
                raise PeerReleased
            elif kind == A_ABORT:
                raise PeerGone
            else:
                raise BrokenRule("pdu-unexpected")
        return self._came.popleft()

    def _serve_peer(self, letter: Letter, command: Command) -> None:
        known = command.field == N_EVENT_REPORT_RQ and letter.context_id in self.contexts
        if self._serve is None or not known:
            raise BrokenRule("command-unexpected")
        status = self._serve(command, letter.data_set)
        self._send(command_pdus(letter.context_id, response_to(command, status), self._longest))

    def _send(self, encoded: bytes | memoryview) -> None:
        view = memoryview(encoded)
        try:
            self._socket.settimeout(self.remote.answer_timeout_s)
            for at in range(0, len(view), _SENT_WITHIN_LIMIT):
                self._socket.sendall(view[at : at + _SENT_WITHIN_LIMIT])
        except TimeoutError as error:
            raise PeerSilent from error
        except OSError as error:
            raise PeerGone from error

    @contextmanager
    def _ends_badly(self) -> Iterator[None]:
        """What goes wrong ends the association, in words of ours."""
        if not self.is_open:
            raise DestinationAborted(f"{self.remote}: the association has ended")
        try:
            yield
        except PeerGone as error:
            self._close(released=isinstance(error, PeerReleased))
            raise DestinationAborted(f"{self.remote}: it ended the association") from error
        except PeerSilent as error:
            self.abort()
            limit = self.remote.answer_timeout_s
            raise DestinationSilent(f"{self.remote}: no answer within {limit:g} s") from error
        except BrokenRule as error:
            self.abort()
            raise DestinationAborted(f"{self.remote}: it does not keep to DICOM ({error})") from error

    def _close(self, *, released: bool) -> None:
        self.is_open = False
        with suppress(OSError):
            self._socket.close()
        self._audit.ended(released=released)


def _whole(kind: int, body: memoryview) -> bytes:
    """A PDU with its header, as pynetdicom reads it."""
    return bytes((kind, 0)) + len(body).to_bytes(4, "big") + bytes(body)


def open_association(
    remote: RemoteAE, contexts: Sequence[PresentationContext], serve: Serve | None = None
) -> Requestor:
    """Associate.

    serve  takes what the peer may ask of us on this association (N-EVENT-REPORT).

    Raises DestinationUnreachable (TlsFailed if that is why), DestinationRejected, AssociationUnanswered or
    NoPresentationContext; and CertificateUnusable and its like if our own files are not in order.
    """
    context = remote.tls.credentials.context() if remote.tls else None
    try:
        connected = socket.create_connection((remote.host, remote.port), remote.connect_timeout_s)
    except (OSError, UnicodeError) as error:
        raise DestinationUnreachable(f"{remote}: no connection; check host, port and firewall") from error
    if remote.tls is not None and context is not None:
        try:
            connected = call(connected, remote.tls, context)
        except HandshakeFailed as error:
            raise TlsFailed(f"{remote}: {words_for(str(error))}") from error
    prepare_socket(connected, remote.answer_timeout_s)
    return Requestor(remote, connected, contexts, serve)
