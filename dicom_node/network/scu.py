"""The sending edge: one association for what is waiting, one outcome for each instance."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from dicom_node.core import faults
from dicom_node.core.errors import (
    DestinationAborted,
    DestinationBusy,
    DestinationRefused,
    FileUnreadable,
    NodeError,
    NoPresentationContext,
    NotTried,
    ObjectUnreadable,
)
from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import begin_of_data_set
from dicom_node.dicom.redaction import redacted
from dicom_node.dicom.services import (
    TRANSFER_SYNTAXES_OUT,
    UNCOMPRESSED,
    StatusKind,
    status_kind,
    status_text,
)
from dicom_node.network.command import Answer, c_echo_request, c_store_request
from dicom_node.network.line import Line, Proposal
from dicom_node.network.requestor import RemoteAE, Requestor, open_association
from dicom_node.network.tls import Agreed

_MAX_COMMENT = 64  # (0000,0902) is LO
_MAX_OFFENDING = 8


def _open(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A Part 10 file to send, and what it is."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    opened: Callable[[Path], BinaryIO] = _open
    """Opens the file for reading."""

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
    """As `send_over`, on an association of its own, which ends with the last item."""
    line = Line(remote, linger_s=0)
    try:
        yield from send_over(line, items)
    finally:
        line.close()


def send_over(line: Line, items: Sequence[Outgoing]) -> Generator[Sent, None, None]:
    """Store the items over one association; yield an outcome for every one, in order, as it is known.

    The next one is read while the answer to one is waited for. Never raises for what happens on the network:
    items that could not be tried have an error too.
    """
    wanted = _proposals(items)
    ahead: _Ready | NodeError | None = None
    sent: Sent | None = None
    try:
        association, was_kept = line.take(wanted)
        faults.step("deliver.associated")
        for number, item in enumerate(items):
            following = items[number + 1] if number + 1 < len(items) else None
            sent = None
            sent, ahead = _send_one(association, item, ahead, following)
            if was_kept and isinstance(sent.error, DestinationAborted | NoPresentationContext):
                # Ended while nobody used it, or from before the archive was set up anew: no failure yet.
                _drop(ahead)
                line.close()
                association, _ = line.take(wanted)
                sent, ahead = _send_one(association, item, None, following)
            was_kept = False
            yield sent
    except NodeError as error:
        yield from (Sent(item, None, error) for item in items)
    finally:
        _drop(ahead)
        if sent is None or sent.error is not None:
            line.close()  # what is tried after a failure is tried from the beginning


@dataclass(slots=True)
class _Ready:
    """An item whose first bytes are read: what can be done before it is its turn."""

    context_id: int
    pdus: Iterator[bytes | memoryview]
    source: BinaryIO


def _make_ready(association: Requestor, item: Outgoing) -> _Ready | NodeError:
    remote = association.remote
    accepted = {
        context.transfer_syntax: context_id
        for context_id, context in association.contexts.items()
        if context.abstract_syntax == item.sop_class_uid
    }
    syntax: str | None = item.transfer_syntax_uid
    if syntax not in accepted:
        anew = item.transfer_syntax_uid in UNCOMPRESSED
        syntax = next((each for each in UNCOMPRESSED if anew and each in accepted), None)
    if syntax is None:
        named = f"{UID(item.sop_class_uid).name} in {UID(item.transfer_syntax_uid).name}"
        return NoPresentationContext(f"{remote}: {named}; ask its administrator to accept it")
    source: BinaryIO | None = None
    try:
        source, size = _data_set_of(item, None if syntax == item.transfer_syntax_uid else syntax)
        pdus = association.pack(accepted[syntax], source, size)
        return _Ready(accepted[syntax], chain((next(pdus, b""),), pdus), source)
    except (OSError, EOFError, InvalidDicomError, ObjectUnreadable, FileUnreadable) as error:
        if source is not None:
            source.close()
        if isinstance(error, FileUnreadable):
            return error
        return FileUnreadable(f"{type(error).__name__} reading {item.path.name}")


def _drop(ready: _Ready | NodeError | None) -> None:
    if isinstance(ready, _Ready):
        ready.source.close()


def _send_one(
    association: Requestor, item: Outgoing, ready: _Ready | NodeError | None, following: Outgoing | None
) -> tuple[Sent, _Ready | NodeError | None]:
    """Store an item, and make ready what follows it."""
    if not association.is_open:
        _drop(ready)
        return Sent(item, None, NotTried(str(association.remote))), None
    ready = ready or _make_ready(association, item)
    if isinstance(ready, NodeError):
        return Sent(item, None, ready), None
    request = partial(
        c_store_request, sop_class_uid=item.sop_class_uid, sop_instance_uid=item.sop_instance_uid
    )
    ahead: _Ready | NodeError | None = None
    try:
        try:
            association.post(ready.context_id, request, ready.pdus)
        finally:
            ready.source.close()
        if following is not None:
            ahead = _make_ready(association, following)
        answer = association.reply().answer
    except NodeError as error:
        return Sent(item, None, error), ahead
    comment = redacted(_own_words(answer), item.path)
    return Sent(item, answer.status, _refusal(association.remote, answer.status, comment), comment), ahead


def _data_set_of(item: Outgoing, syntax: str | None) -> tuple[BinaryIO, int]:
    """The data set of a file, at its first byte, and its length; encoded anew if `syntax` is given.

    Raises OSError, InvalidDicomError, ObjectUnreadable or FileUnreadable.
    """
    if syntax is not None:
        encoded = encode(dcmread(item.path), UID(syntax).is_implicit_VR, UID(syntax).is_little_endian)
        if encoded is None:
            raise FileUnreadable(f"{item.path.name} cannot be written in {UID(syntax).name}")
        return BytesIO(encoded), len(encoded)
    file = item.opened(item.path)
    try:
        begin = begin_of_data_set(file)
        size = file.seek(0, os.SEEK_END) - begin
        file.seek(begin)
    except BaseException:
        file.close()
        raise
    return file, size


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


def _proposals(items: Sequence[Outgoing]) -> list[Proposal]:
    """One context per SOP class and transfer syntax: the acceptor then cannot choose for us."""
    pairs: dict[Proposal, None] = {}
    for item in items:
        pairs[item.sop_class_uid, item.transfer_syntax_uid] = None
        if item.transfer_syntax_uid in UNCOMPRESSED:
            pairs |= dict.fromkeys((item.sop_class_uid, syntax) for syntax in TRANSFER_SYNTAXES_OUT)
    return list(pairs)
