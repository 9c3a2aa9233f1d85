"""Storage commitment as SCU: ask an archive, and take its report wherever it comes in (PS3.4 Annex J)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.core.commitment import Report
from dicom_node.core.errors import (
    CommitmentDelayed,
    CommitmentRefused,
    DestinationAborted,
    DestinationSilent,
    NodeError,
    NoPresentationContext,
)
from dicom_node.dicom.services import StatusKind, status_kind, status_text
from dicom_node.network.command import Command, n_action_request
from dicom_node.network.requestor import RemoteAE, open_association
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)

INSTANCES_AT_MOST = 300
"""Instances in one transaction: a report about them is some 60 kB."""

_REQUEST = 1  # action type, PS3.4 J.3.2
_COMPLETE, _FAILURES_EXIST = 1, 2  # event types, PS3.4 J.3.3

# Answers to a report (PS3.7 10.1.1.1.8). A stranger learns nothing but "I know no such transaction".
_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_NO_SUCH_INSTANCE = 0x0112
_NO_SUCH_EVENT = 0x0113
_INVALID_ARGUMENT = 0x0115

_DUPLICATE_TRANSACTION = 0x0131  # each question has a UID of its own, so asking again is the cure

_LOOK_EVERY_S = 0.1

TakeReport = Callable[[Report], bool]
"""Makes a report durable; False if there is no such transaction."""


def request_commitment(
    remote: RemoteAE,
    transaction_uid: str,
    instances: Sequence[tuple[str, str]],
    take: TakeReport,
    *,
    stay_s: float,
    enough: Callable[[], bool],
) -> None:
    """Ask an archive to commit to instances, given as (SOP class, SOP instance); return once it will report.

    A report may come on this association, before or after the answer, and goes to `take`.
    stay_s  seconds to leave the association open for that.
    enough  True once the report has come, wherever it came in.

    Raises CommitmentRefused or CommitmentDelayed with the archive's words, DestinationAborted if there is no
    answer (it may report all the same), and what `open_association` raises.
    """
    came = False

    def serve(command: Command, data_set: bytes) -> int:
        nonlocal came
        came = True
        return answer_report(_request_of(command, data_set, syntax, remote.host), take, remote.ae_title)

    try:
        association = open_association(remote, [build_context(StorageCommitmentPushModel)], serve)
    except NoPresentationContext as error:
        raise CommitmentRefused(f"{remote}: does not offer storage commitment; {_advice(remote)}") from error
    with association:
        context_id = association.context_of(StorageCommitmentPushModel) or 0
        syntax = UID(association.contexts[context_id].transfer_syntax)
        information = encode(
            _information(transaction_uid, instances), syntax.is_implicit_VR, syntax.is_little_endian
        )
        assert information is not None, "UIDs alone can always be written"
        request = partial(
            n_action_request,
            sop_class_uid=StorageCommitmentPushModel,
            sop_instance_uid=StorageCommitmentPushModelInstance,
            action=_REQUEST,
        )
        try:
            reply = association.ask(context_id, request, (BytesIO(information), len(information)))
        except DestinationSilent as error:
            raise DestinationAborted(f"{remote}: no answer to the request for storage commitment") from error
        _judge(remote, reply.answer.status)
        deadline = time.monotonic() + stay_s
        # How the association ends does not matter now: a report can come on another as well.
        with suppress(DestinationAborted, DestinationSilent):
            while not came and not enough() and time.monotonic() < deadline:
                association.listen(_LOOK_EVERY_S)


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """An N-EVENT-REPORT-RQ (PS3.7 10.1.1), on whosever association it comes."""

    sop_instance_uid: str
    event_type: int
    information: Callable[[], Dataset]
    """Reads its data set; raises what pydicom raises on broken ones."""
    address: str
    """Of who brings it."""


def answer_report(request: ReportRequest, take: TakeReport, sender: str) -> int:
    """Take the report and return the status that says what became of it, whatever happens.

    sender  whose association this is, for the log.
    """
    try:
        status, words = _taken(request, take)
    except NodeError as error:
        status, words = _PROCESSING_FAILURE, error.code
    except Exception as error:  # noqa: BLE001 - the archive needs an answer whatever happened
        status, words = _PROCESSING_FAILURE, f"{type(error).__name__} at {where(error)}"
    if status != _SUCCESS:
        log.warning(
            "storage commitment report refused",
            extra={
                "action": "report-refused",
                "status": f"0x{status:04X}",
                "code": words,
                "peer": sender,
                "address": request.address,
            },
        )
    return status


def _request_of(command: Command, data_set: bytes, syntax: UID, address: str) -> ReportRequest:
    return ReportRequest(
        sop_instance_uid=command.sop_instance_uid,
        event_type=command.event_type or 0,
        information=lambda: decode(BytesIO(data_set), syntax.is_implicit_VR, syntax.is_little_endian),
        address=address,
    )


def _taken(request: ReportRequest, take: TakeReport) -> tuple[int, str]:
    if request.sop_instance_uid != StorageCommitmentPushModelInstance:
        return _NO_SUCH_INSTANCE, "not the instance of storage commitment"
    if request.event_type not in (_COMPLETE, _FAILURES_EXIST):
        return _NO_SUCH_EVENT, "unknown event type"
    try:
        report = _read(request.information())
    except Exception:  # noqa: BLE001 - pydicom raises many kinds on broken data sets
        return _INVALID_ARGUMENT, "unreadable"
    if not take(report):
        return _INVALID_ARGUMENT, "no such transaction of this sender"
    return _SUCCESS, ""


def _read(information: Dataset) -> Report:
    failed: dict[str, int | None] = {}
    for item in information.get("FailedSOPSequence") or ():
        reason = item.get("FailureReason")
        failed[str(item.ReferencedSOPInstanceUID)] = None if reason is None else int(reason)
    return Report(
        transaction_uid=str(information.TransactionUID),
        committed=frozenset(
            str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()
        ),
        failed=failed,
    )


def _information(transaction_uid: str, instances: Sequence[tuple[str, str]]) -> Dataset:
    """Action Information of a request (PS3.4 Table J.3-1)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = Items()
    for sop_class_uid, sop_instance_uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        information.ReferencedSOPSequence.append(item)
    return information


def _judge(remote: RemoteAE, status: int) -> None:
    kind = status_kind(status)
    if kind is StatusKind.TEMPORARY or status == _DUPLICATE_TRANSACTION:
        raise CommitmentDelayed(f"{remote}: answered {status_text(status)}")
    if kind is StatusKind.PERMANENT:
        raise CommitmentRefused(f"{remote}: answered {status_text(status)}; {_advice(remote)}")


def _advice(remote: RemoteAE) -> str:
    return (
        f"have its administrator allow it, or set `confirm: find` for it; `emode probe {remote.name}` says "
        "what it offers"
    )
