"""The sending edge: one association for what is waiting, one outcome for each instance."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification

from dicom_node.core import faults
from dicom_node.core.errors import (
    AssociationUnanswered,
    DestinationAborted,
    DestinationBusy,
    DestinationRefused,
    DestinationRejected,
    DestinationSilent,
    DestinationUnreachable,
    FileUnreadable,
    NodeError,
    NoPresentationContext,
    NotTried,
    TlsFailed,
)
from dicom_node.dicom.header import read_header
from dicom_node.dicom.redaction import redacted
from dicom_node.dicom.services import (
    TRANSFER_SYNTAXES_OUT,
    UNCOMPRESSED,
    StatusKind,
    status_kind,
    status_text,
)
from dicom_node.network.adapter import (
    application_entity,
    close_socket,
    limit_silence,
    send_from_files,
    transport_of,
)
from dicom_node.network.audit import Handlers, outgoing_handlers
from dicom_node.network.reactor import steady_reactor
from dicom_node.network.tls import Agreed, ClientTls, agreed_on, call, words_for
from dicom_node.telemetry.audit_trail import NO_AUDIT, AuditTrail

_MAX_PDU = 131072
_MAX_COMMENT = 64  # (0000,0902) is LO
_MAX_OFFENDING = 8
_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers from 1 to 255


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
class Outgoing:
    """A Part 10 file to send, and what it is."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @classmethod
    def of(cls, path: Path) -> Outgoing:
        """Read what a file is; raises as `header.read_header` does."""
        header = read_header(path)
        return cls(path, header.sop_class_uid, header.sop_instance_uid, header.transfer_syntax_uid)


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one instance: stored with this status, or an error."""

    item: Outgoing
    status: int | None
    error: NodeError | None
    comment: str = ""
    """What the peer wrote with a status that is not an error, the patient's own data hidden. Never for a log:
    what else it quotes is not known."""

    @property
    def words(self) -> str:
        """For people, with the peer's own words; never for a log."""
        if self.error is not None:
            return self.error.for_operators
        said = status_text(self.status or 0)
        return f'{said}; it wrote: "{self.comment}"' if self.comment else said


def open_association(
    remote: RemoteAE, contexts: list[PresentationContext], handlers: Sequence[tuple[Any, ...]] = ()
) -> Association:
    """Associate; `handlers` are pynetdicom's (event, function) for what the peer asks of us.

    Raises DestinationUnreachable (TlsFailed if that is why), DestinationRejected, AssociationUnanswered or
    NoPresentationContext; and CertificateUnusable and its like if our own files are not in order.
    """
    secured = call(remote.tls) if remote.tls else None
    ae = application_entity(remote.calling_ae_title)
    ae.connection_timeout = remote.connect_timeout_s
    ae.acse_timeout = remote.connect_timeout_s
    ae.dimse_timeout = remote.answer_timeout_s
    ae.network_timeout = remote.answer_timeout_s
    connected = threading.Event()
    association = ae.associate(
        remote.host,
        remote.port,
        contexts=contexts,
        ae_title=remote.ae_title,
        max_pdu=_MAX_PDU,
        tls_args=(secured, remote.tls.server_name) if remote.tls else None,
        evt_handlers=[
            (evt.EVT_CONN_OPEN, limit_silence, [remote.answer_timeout_s]),
            (evt.EVT_CONN_OPEN, steady_reactor),
            (evt.EVT_CONN_OPEN, lambda event: connected.set()),
            *_audited(remote),
            *handlers,
        ],
    )
    if association.is_established:
        return association
    close_socket(association)
    if secured is not None:
        secured.close()
    if secured is not None and secured.is_why and not association.is_rejected:
        raise TlsFailed(f"{remote}: {words_for(secured.reason)}")
    raise _why_not(remote, association, connected=connected.is_set())


def _audited(remote: RemoteAE) -> Handlers:
    return outgoing_handlers(
        remote.trail, calling=remote.calling_ae_title, called=remote.ae_title, address=remote.host
    )


def _why_not(remote: RemoteAE, association: Association, *, connected: bool) -> NodeError:
    answer = association.acceptor.primitive
    if association.is_rejected:
        return DestinationRejected(
            f"{remote}: {answer.result_str}, {answer.source_str}, {answer.reason_str}; "
            f"check the AE titles and whether it knows {remote.calling_ae_title}"
        )
    if answer is not None and answer.result == 0x00:
        # It took the association and none of what we propose; pynetdicom then aborts by itself.
        return NoPresentationContext(f"{remote}: none of them; ask its administrator to accept them")
    if connected:
        trusts = ", whether it trusts our certificate" if remote.tls else ""
        return AssociationUnanswered(
            f"{remote}: it closed the connection, or said nothing for {remote.connect_timeout_s:g} s; check "
            f"the AE titles, whether it knows {remote.calling_ae_title}{trusts}, and whether the port speaks "
            "DICOM"
        )
    return DestinationUnreachable(f"{remote}: no connection; check host, port and firewall")


@dataclass(frozen=True, slots=True)
class Echoed:
    """An answered C-ECHO: how long it took, association included, and what protected it."""

    seconds: float
    tls: Agreed | None


def echo(remote: RemoteAE) -> Echoed:
    """C-ECHO."""
    started = time.monotonic()
    association = open_association(remote, [build_context(Verification)])
    agreed = agreed_on(transport_of(association))
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    if "Status" not in status:
        raise DestinationAborted(f"{remote}: no answer to C-ECHO")
    if status.Status != 0x0000:
        raise DestinationRefused(f"{remote}: C-ECHO answered {status_text(status.Status)}")
    return Echoed(time.monotonic() - started, agreed)


def send(remote: RemoteAE, items: Sequence[Outgoing]) -> Generator[Sent, None, None]:
    """Store the items over one association; yield an outcome for every one, in order, as it is known.

    Never raises for what happens on the network: items that could not be tried have an error too.
    """
    send_from_files()
    try:
        association = open_association(remote, _contexts(items))
    except NodeError as error:
        yield from (Sent(item, None, error) for item in items)
        return
    try:
        faults.step("deliver.associated")
        for item in items:
            yield _send_one(remote, association, item)
    finally:
        if association.is_established:
            association.release()


def _send_one(remote: RemoteAE, association: Association, item: Outgoing) -> Sent:
    if not association.is_established:
        return Sent(item, None, NotTried(str(remote)))
    accepted = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == item.sop_class_uid
    }
    reencode = item.transfer_syntax_uid not in accepted
    if reencode and (item.transfer_syntax_uid not in UNCOMPRESSED or not accepted & set(UNCOMPRESSED)):
        named = f"{UID(item.sop_class_uid).name} in {UID(item.transfer_syntax_uid).name}"
        return Sent(
            item, None, NoPresentationContext(f"{remote}: {named}; ask its administrator to accept it")
        )
    started = time.monotonic()
    try:
        payload: Path | Dataset = item.path
        if reencode:
            payload = dcmread(item.path)  # pynetdicom encodes it anew in the accepted syntax
        answer = association.send_c_store(payload)
    except (OSError, InvalidDicomError) as error:
        if association.is_established:
            return Sent(item, None, FileUnreadable(f"{type(error).__name__} reading {item.path.name}"))
        return Sent(item, None, DestinationAborted(f"{remote}: {type(error).__name__} while sending"))
    except (ValueError, RuntimeError) as error:
        return Sent(item, None, DestinationAborted(f"{remote}: {type(error).__name__} while sending"))
    if "Status" not in answer:
        waited = time.monotonic() - started
        if waited >= remote.answer_timeout_s:
            return Sent(
                item, None, DestinationSilent(f"{remote}: no answer to C-STORE within {waited:.0f} s")
            )
        return Sent(item, None, DestinationAborted(f"{remote}: no answer to C-STORE"))
    comment = redacted(_own_words(answer), item.path)
    return Sent(item, int(answer.Status), _refusal(remote, int(answer.Status), comment), comment)


def _own_words(answer: Dataset) -> str:
    """Error Comment and Offending Element of an answer (PS3.7 C.4.1 to C.4.3), as the peer sent them."""
    words = "".join(c for c in str(answer.get("ErrorComment", "") or "") if c.isprintable())[:_MAX_COMMENT]
    offending = answer.get("OffendingElement")
    tags = offending if isinstance(offending, MultiValue) else [offending] if offending is not None else []
    named = " ".join(str(Tag(tag)).replace(" ", "") for tag in list(tags)[:_MAX_OFFENDING])
    return "; ".join(part for part in (words.strip(), named) if part)


def _refusal(remote: RemoteAE, status: int, comment: str) -> NodeError | None:
    kind = status_kind(status)
    if kind is StatusKind.TEMPORARY:
        return DestinationBusy(f"{remote}: {status_text(status)}", quoted=comment)
    if kind is StatusKind.PERMANENT:
        return DestinationRefused(
            f"{remote}: {status_text(status)}; its log says why, then `emode jobs retry` sends again",
            quoted=comment,
        )
    return None


def _contexts(items: Sequence[Outgoing]) -> list[PresentationContext]:
    """One context per SOP class and transfer syntax: the acceptor then cannot choose for us."""
    pairs: dict[tuple[str, str], None] = {}
    for item in items:
        pairs[item.sop_class_uid, item.transfer_syntax_uid] = None
        if item.transfer_syntax_uid in UNCOMPRESSED:
            pairs |= dict.fromkeys((item.sop_class_uid, syntax) for syntax in TRANSFER_SYNTAXES_OUT)
    return [build_context(sop_class, syntax) for sop_class, syntax in list(pairs)[:_MAX_CONTEXTS]]
