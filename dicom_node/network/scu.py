"""The sending edge: one association for what is waiting, one outcome for each instance."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification

from dicom_node.core import faults
from dicom_node.core.errors import (
    DestinationBusy,
    DestinationRefused,
    FileUnreadable,
    NodeError,
    NoPresentationContext,
    NotTried,
    ObjectUnreadable,
)
from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import dataset_offset
from dicom_node.dicom.redaction import redacted
from dicom_node.dicom.services import (
    TRANSFER_SYNTAXES_OUT,
    UNCOMPRESSED,
    StatusKind,
    status_kind,
    status_text,
)
from dicom_node.network.command import Answer, c_echo_request, c_store_request
from dicom_node.network.requestor import RemoteAE, Requestor, open_association
from dicom_node.network.tls import Agreed

_MAX_COMMENT = 64  # (0000,0902) is LO
_MAX_OFFENDING = 8
_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers from 1 to 255


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


@dataclass(frozen=True, slots=True)
class Echoed:
    """An answered C-ECHO: how long it took, association included, and what protected it."""

    seconds: float
    tls: Agreed | None


def echo(remote: RemoteAE) -> Echoed:
    """C-ECHO."""
    started = time.monotonic()
    with open_association(remote, [build_context(Verification)]) as association:
        request = partial(c_echo_request, sop_class_uid=Verification)
        answer = association.ask(association.context_of(Verification) or 0, request).answer
    if answer.status != 0x0000:
        raise DestinationRefused(f"{remote}: C-ECHO answered {status_text(answer.status)}")
    return Echoed(time.monotonic() - started, association.agreed)


def send(remote: RemoteAE, items: Sequence[Outgoing]) -> Generator[Sent, None, None]:
    """Store the items over one association; yield an outcome for every one, in order, as it is known.

    Never raises for what happens on the network: items that could not be tried have an error too.
    """
    try:
        association = open_association(remote, _contexts(items))
    except NodeError as error:
        yield from (Sent(item, None, error) for item in items)
        return
    with association:
        faults.step("deliver.associated")
        for item in items:
            yield _send_one(remote, association, item)


def _send_one(remote: RemoteAE, association: Requestor, item: Outgoing) -> Sent:
    if not association.is_open:
        return Sent(item, None, NotTried(str(remote)))
    accepted = {
        context.transfer_syntax: context_id
        for context_id, context in association.contexts.items()
        if context.abstract_syntax == item.sop_class_uid
    }
    as_it_is = accepted.get(item.transfer_syntax_uid)
    anew = next((syntax for syntax in UNCOMPRESSED if syntax in accepted), None)
    if as_it_is is None and (anew is None or item.transfer_syntax_uid not in UNCOMPRESSED):
        named = f"{UID(item.sop_class_uid).name} in {UID(item.transfer_syntax_uid).name}"
        return Sent(
            item, None, NoPresentationContext(f"{remote}: {named}; ask its administrator to accept it")
        )
    request = partial(
        c_store_request, sop_class_uid=item.sop_class_uid, sop_instance_uid=item.sop_instance_uid
    )
    try:
        with _data_set_of(item, None if as_it_is is not None else anew) as (source, size):
            context_id = as_it_is if as_it_is is not None else accepted[str(anew)]
            answer = association.ask(context_id, request, (source, size)).answer
    except NodeError as error:
        return Sent(item, None, error)
    comment = redacted(_own_words(answer), item.path)
    return Sent(item, answer.status, _refusal(remote, answer.status, comment), comment)


@contextmanager
def _data_set_of(item: Outgoing, syntax: str | None) -> Iterator[tuple[BinaryIO, int]]:
    """The data set of a file, at its first byte, and its length; encoded anew if `syntax` is given.

    Raises FileUnreadable.
    """
    try:
        if syntax is None:
            begin = dataset_offset(item.path)
            with item.path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size - begin
                file.seek(begin)
                yield file, size
            return
        encoded = encode(dcmread(item.path), UID(syntax).is_implicit_VR, UID(syntax).is_little_endian)
    except (OSError, InvalidDicomError, ObjectUnreadable) as error:
        raise FileUnreadable(f"{type(error).__name__} reading {item.path.name}") from error
    if encoded is None:
        raise FileUnreadable(f"{item.path.name} cannot be written in {UID(syntax).name}")
    yield BytesIO(encoded), len(encoded)


def _own_words(answer: Answer) -> str:
    """Error Comment and Offending Element of an answer (PS3.7 C.4.1 to C.4.3), as the peer sent them."""
    comment = answer.comment.decode("ascii", errors="replace")
    words = "".join(c for c in comment if c.isprintable())[:_MAX_COMMENT]
    named = " ".join(str(Tag(tag)).replace(" ", "") for tag in answer.offending[:_MAX_OFFENDING])
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
