"""Storage commitment as SCU: ask an archive, and take its report wherever it comes in (PS3.4 Annex J)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pynetdicom import evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.core.commitment import Report
from dicom_node.core.errors import (
    CommitmentDelayed,
    CommitmentRefused,
    DestinationAborted,
    NodeError,
    NoPresentationContext,
)
from dicom_node.dicom.services import StatusKind, status_kind, status_text
from dicom_node.network.adapter import is_answer_to_report
from dicom_node.network.scu import RemoteAE, open_association
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
    came = threading.Event()

    def answered(event: evt.Event) -> None:
        if is_answer_to_report(event):
            came.set()

    handlers = [
        (
            evt.EVT_N_EVENT_REPORT,
            lambda event: (answer_report(_request_of(event), take, remote.ae_title), None),
        ),
        (evt.EVT_DIMSE_SENT, answered),
    ]
    try:
        association = open_association(remote, [build_context(StorageCommitmentPushModel)], handlers)
    except NoPresentationContext as error:
        raise CommitmentRefused(f"{remote}: does not offer storage commitment; {_advice(remote)}") from error
    try:
        answer, _ = association.send_n_action(
            _information(transaction_uid, instances),
            _REQUEST,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        if "Status" not in answer:
            raise DestinationAborted(f"{remote}: no answer to the request for storage commitment")
        _judge(remote, int(answer.Status))
        deadline = time.monotonic() + stay_s
        while (
            association.is_established
            and time.monotonic() < deadline
            and not came.wait(_LOOK_EVERY_S)
            and not enough()
        ):
            pass
    except (RuntimeError, ValueError) as error:  # the association ended under us
        raise DestinationAborted(f"{remote}: {type(error).__name__} while asking") from error
    finally:
        if association.is_established:
            association.release()


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


def _request_of(event: evt.Event) -> ReportRequest:
    return ReportRequest(
        sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
        event_type=int(event.event_type),
        information=lambda: event.event_information,
        address=str(event.assoc.remote.get("address")),
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
