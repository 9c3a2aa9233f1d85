"""The A-ASSOCIATE exchange (PS3.8 7.1): what one side asks, what the other gives.

PDUs are read and written, and presentation contexts negotiated, by pynetdicom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID
from pynetdicom._globals import APPLICATION_CONTEXT_NAME
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from dicom_node.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.network.messages import Context
from dicom_node.network.rules import BrokenRule

_ACCEPTED = 0x00
_BY_US = 0x01  # result source: the service user


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and reason (PS3.8 Table 9-21)."""

    result: int
    source: int
    reason: int

    def encode(self) -> bytes:
        """As it goes over the wire."""
        pdu = A_ASSOCIATE_RJ()
        pdu.result, pdu.source, pdu.reason_diagnostic = self.result, self.source, self.reason
        return bytes(pdu.encode())


def offer(
    sop_class_uid: str, transfer_syntaxes: Sequence[str] | None = None, *, both_roles: bool = False
) -> PresentationContext:
    """A SOP class that we take.

    transfer_syntaxes  in the order that we prefer; None is pynetdicom's default, everything uncompressed.
    both_roles         we may be its user although the peer has called: an archive that brings a report.
    """
    context = build_context(sop_class_uid, list(transfer_syntaxes) if transfer_syntaxes else None)
    if both_roles:
        context.scu_role = context.scp_role = True
    return context


def association_request(
    calling: str, called: str, contexts: Sequence[PresentationContext], longest_pdu: int
) -> bytes:
    """The A-ASSOCIATE-RQ of an association that we open.

    contexts     proposed under 1, 3, 5, ... (PS3.8 9.3.2.2)
    longest_pdu  the longest P-DATA-TF that we ask for.
    """
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    request = A_ASSOCIATE()
    request.application_context_name = UID(APPLICATION_CONTEXT_NAME)
    request.calling_ae_title, request.called_ae_title = calling, called
    request.presentation_context_definition_list = list(contexts)
    request.user_information = _about_us(longest_pdu)
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return bytes(pdu.encode())


def read_acceptance(
    encoded: bytes, proposed: Iterable[PresentationContext]
) -> tuple[dict[int, Context], int]:
    """What an A-ASSOCIATE-AC agrees to, and the longest PDU of who sent it; raises BrokenRule."""
    asked = {context.context_id: context for context in proposed}
    agreed: dict[int, Context] = {}
    try:
        pdu = A_ASSOCIATE_AC()
        pdu.decode(encoded)
        primitive = pdu.to_primitive()
        for result in primitive.presentation_context_definition_results_list:
            ours = asked.get(result.context_id)
            # What was not proposed cannot be agreed to, whatever the peer says.
            if ours and result.result == _ACCEPTED and result.transfer_syntax[0] in ours.transfer_syntax:
                agreed[int(result.context_id)] = Context(
                    str(ours.abstract_syntax), str(result.transfer_syntax[0])
                )
        return agreed, _longest_of(primitive)
    except Exception as error:  # pynetdicom raises what it likes
        raise BrokenRule("association-answer-unreadable") from error


def read_rejection(encoded: bytes) -> str:
    """What an A-ASSOCIATE-RJ says: result, source and reason in the words of PS3.8 9.3.4."""
    try:
        pdu = A_ASSOCIATE_RJ()
        pdu.decode(encoded)
        return f"{pdu.result_str}, {pdu.source_str}, {pdu.reason_str}"
    except Exception as error:
        raise BrokenRule("association-answer-unreadable") from error


def _longest_of(primitive: A_ASSOCIATE) -> int:
    """What a peer takes in one P-DATA-TF; 0 is anything."""
    items = (item for item in primitive.user_information if isinstance(item, MaximumLengthNotification))
    return next((int(item.maximum_length_received) for item in items), 0)


class AssociationRequest:
    """An A-ASSOCIATE-RQ that could be read."""

    def __init__(self, encoded: bytes) -> None:
        """Read the PDU; raises BrokenRule."""
        try:
            pdu = A_ASSOCIATE_RQ()
            pdu.decode(encoded)
            self._primitive: A_ASSOCIATE = pdu.to_primitive()
            # None for titles of nothing but spaces, or that are not ASCII.
            self.calling_ae_title = (self._primitive.calling_ae_title or "").strip()
            self.called_ae_title = (self._primitive.called_ae_title or "").strip()
            self.longest_pdu = _longest_of(self._primitive)
        except Exception as error:  # pynetdicom raises what it likes
            raise BrokenRule("association-request-unreadable") from error

    def accept(
        self, offered: Sequence[PresentationContext], longest_pdu: int
    ) -> tuple[bytes, dict[int, Context]]:
        """The A-ASSOCIATE-AC and what it agrees to, by presentation context ID. Raises BrokenRule.

        longest_pdu  the longest P-DATA-TF that we ask for.
        """
        try:
            results, roles = negotiate_as_acceptor(
                self._primitive.presentation_context_definition_list, list(offered), self._roles()
            )
            answer = A_ASSOCIATE()
            answer.application_context_name = UID(APPLICATION_CONTEXT_NAME)
            answer.calling_ae_title = self._primitive.calling_ae_title
            answer.called_ae_title = self._primitive.called_ae_title
            answer.result, answer.result_source = _ACCEPTED, _BY_US
            answer.presentation_context_definition_results_list = results
            answer.user_information = [*_about_us(longest_pdu), *roles]
            pdu = A_ASSOCIATE_AC()
            pdu.from_primitive(answer)
            return bytes(pdu.encode()), _agreed(results)
        except Exception as error:
            raise BrokenRule("association-request-unreadable") from error

    def _roles(self) -> Mapping[Any, Any]:
        """SOP class -> (SCU, SCP), as the peer proposes."""
        return {
            item.sop_class_uid: (item.scu_role, item.scp_role)
            for item in self._primitive.user_information
            if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
        }


def _agreed(results: Iterable[PresentationContext]) -> dict[int, Context]:
    return {
        int(result.context_id or 0): Context(str(result.abstract_syntax), str(result.transfer_syntax[0]))
        for result in results
        if result.result == _ACCEPTED
    }


def _about_us(longest_pdu: int) -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = longest_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]
