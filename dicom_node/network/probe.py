"""Find out what an archive offers: before results go there, or when they do not arrive."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicom_node.core.errors import DestinationUnreachable, NodeError, NoPresentationContext
from dicom_node.dicom.services import RETURNED_CLASSES, TRANSFER_SYNTAXES_OUT, status_text
from dicom_node.network.command import c_echo_request
from dicom_node.network.line import Line
from dicom_node.network.qido import QidoServer, answers_qido
from dicom_node.network.query import listed_instances
from dicom_node.network.requestor import RemoteAE, Requestor, open_association


@dataclass(frozen=True, slots=True)
class Offered:
    """One thing an archive may offer.

    ok     None: not asked.
    words  what it said, for people.
    """

    ok: bool | None
    words: str


_NOT_ASKED = Offered(None, "not asked")


@dataclass(frozen=True, slots=True)
class Offer:
    """What an archive offers."""

    reachable: Offered
    association: Offered
    echo: Offered = _NOT_ASKED
    storage: Offered = _NOT_ASKED
    find: Offered = _NOT_ASKED
    commitment: Offered = _NOT_ASKED
    qido: Offered = _NOT_ASKED

    def way(self, confirm: str) -> Offered:
        """What a value of `confirm` needs."""
        ways = {"commitment": self.commitment, "find": self.find, "qido": self.qido}
        return ways.get(confirm, Offered(True, "needs nothing"))

    @property
    def best(self) -> str:
        """The strongest value of `confirm` that it offers."""
        return next((way for way in ("commitment", "find", "qido") if self.way(way).ok), "none")


def probe(remote: RemoteAE, qido: QidoServer | None) -> Offer:
    """Ask an archive for everything we may want of it. Nothing is stored, and nothing is committed to.

    Whether it answers a request for commitment shows only when one is made: an honest archive would report.
    """
    contexts = [
        build_context(Verification),
        build_context(StudyRootQueryRetrieveInformationModelFind),
        build_context(StorageCommitmentPushModel),
        *(build_context(each, syntax) for each in RETURNED_CLASSES for syntax in TRANSFER_SYNTAXES_OUT),
    ]
    by_web = _qido(qido)
    try:
        association = open_association(remote, contexts)
    except NoPresentationContext:
        nothing = Offered(False, "not accepted")
        return Offer(
            Offered(True, "yes"), Offered(True, "accepted"), nothing, nothing, nothing, nothing, by_web
        )
    except DestinationUnreachable as error:
        return Offer(Offered(False, str(error)), _NOT_ASKED, qido=by_web)
    except NodeError as error:
        return Offer(Offered(True, "yes"), Offered(False, str(error)), qido=by_web)
    with association:
        accepted = {(c.abstract_syntax, c.transfer_syntax) for c in association.contexts.values()}
        classes = {sop_class for sop_class, _ in accepted}
        echo = _echo(association) if Verification in classes else Offered(False, "not accepted")
    return Offer(
        reachable=Offered(True, "yes"),
        association=Offered(True, "accepted"),
        echo=echo,
        storage=_storage(accepted),
        find=_find(remote) if StudyRootQueryRetrieveInformationModelFind in classes else _NO_CONTEXT,
        commitment=_COMMITS if StorageCommitmentPushModel in classes else _NO_CONTEXT,
        qido=by_web,
    )


_NO_CONTEXT = Offered(False, "presentation context not accepted")
_COMMITS = Offered(True, "presentation context accepted; the first request shows whether it lets us ask")


def _echo(association: Requestor) -> Offered:
    started = time.monotonic()
    context_id = association.context_of(Verification) or 0
    try:
        reply = association.ask(context_id, lambda number: c_echo_request(number, Verification))
    except NodeError:
        return Offered(False, "no answer")
    if reply.answer.status != 0x0000:
        return Offered(False, status_text(reply.answer.status))
    return Offered(True, f"answered in {time.monotonic() - started:.3f} s")


def _storage(accepted: set[tuple[str, str]]) -> Offered:
    parts, complete = [], True
    for sop_class, name in RETURNED_CLASSES.items():
        syntaxes = [UID(syntax).name for syntax in TRANSFER_SYNTAXES_OUT if (sop_class, syntax) in accepted]
        complete = complete and bool(syntaxes)
        parts.append(f"{name}: {', '.join(syntaxes) or 'not accepted'}")
    return Offered(complete, "; ".join(parts))


def _find(remote: RemoteAE) -> Offered:
    line = Line(remote, linger_s=0)
    nobody = (f"2.25.{uuid.uuid4().int}", f"2.25.{uuid.uuid4().int}")
    try:
        found = listed_instances(line, {nobody: set()})[nobody]
    except NodeError as error:
        found = error
    finally:
        line.close()
    return Offered(False, str(found)) if isinstance(found, NodeError) else Offered(True, "answers")


def _qido(server: QidoServer | None) -> Offered:
    if server is None:
        return Offered(None, "no `qido_url` is set")
    try:
        answers_qido(server)
    except NodeError as error:
        return Offered(False, str(error))
    return Offered(True, "answers")
