"""An archive that commits as a test tells it to: when, on which association, and to what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class Asked:
    """One N-ACTION as it arrived."""

    transaction_uid: str
    instances: tuple[tuple[str, str], ...]
    """(SOP class, SOP instance)."""
    association: Any = field(repr=False)


def event_information(asked: Asked, reasons: dict[str, int | None] | None = None) -> tuple[int, Dataset]:
    """(event type, Event Information) that commits to everything but what has a failure reason."""
    reasons = reasons or {}
    information = Dataset()
    information.TransactionUID = asked.transaction_uid
    kept = [pair for pair in asked.instances if pair[1] not in reasons]
    if kept:
        information.ReferencedSOPSequence = Items([_reference(*pair) for pair in kept])
    failed = [pair for pair in asked.instances if pair[1] in reasons]
    if failed:
        information.FailedSOPSequence = Items([_reference(*pair, reasons[pair[1]]) for pair in failed])
    return (2 if failed else 1), information


def _reference(sop_class: str, sop_instance: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    if reason is not None:
        item.FailureReason = reason
    return item


class Committer:
    """Takes C-STORE and N-ACTION. `on_action` gets each question and returns the status to answer it with."""

    def __init__(
        self, on_action: Callable[[Committer, Asked], int], *, title: str = "PACS", commits: bool = True
    ) -> None:
        """Prepare; nothing listens before `start`.

        commits  False: storage commitment is not offered at all.
        """
        self.title = title
        self.questions: list[Asked] = []
        self.stored: list[str] = []
        self.calls_back: tuple[int, str] = (0, "EMODE")
        """Port and AE title that reports on associations of its own go to."""
        self._on_action = on_action
        self._ae = AE(title)
        self._ae.add_supported_context(Verification)
        self._ae.add_supported_context(SECONDARY_CAPTURE)
        if commits:
            self._ae.add_supported_context(StorageCommitmentPushModel)
        self._threads: list[threading.Thread] = []

    def start(self, port: int = 0) -> Committer:
        """Listen on loopback."""
        handlers = [(evt.EVT_N_ACTION, self._action), (evt.EVT_C_STORE, self._store)]
        self._server = self._ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        return self

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.socket.getsockname()[1])

    def stop(self) -> None:
        """End, with everything it still had to say."""
        self._ae.shutdown()
        for thread in self._threads:
            thread.join(20)

    def report_on(self, association: Any, event_type: int, information: Dataset) -> int | None:
        """Report on an association that is open; the status answered."""
        status, _ = association.send_n_event_report(
            information, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        return getattr(status, "Status", None)

    def call_back(
        self, event_type: int, information: Dataset, *, title: str | None = None, roles: bool = True
    ) -> int | None:
        """Report on an association of its own; the status answered, None if there was none.

        title  who it says it is.
        roles  False: without the role selection that the standard asks for, as some archives do.
        """
        ae = AE(title or self.title)
        ae.add_requested_context(StorageCommitmentPushModel)
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid = StorageCommitmentPushModel
        role.scu_role, role.scp_role = False, True
        port, called = self.calls_back
        association = ae.associate("127.0.0.1", port, ae_title=called, ext_neg=[role] if roles else None)
        if not association.is_established:
            return None
        try:
            return self.report_on(association, event_type, information)
        finally:
            if association.is_established:
                association.release()

    def later(self, work: Callable[[], object]) -> None:
        """Do something in a thread of its own, so that the answer to the question goes out first."""
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _action(self, event: evt.Event) -> tuple[int, None]:
        information = event.action_information
        asked = Asked(
            str(information.TransactionUID),
            tuple(
                (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
                for item in information.ReferencedSOPSequence
            ),
            event.assoc,
        )
        self.questions.append(asked)
        return self._on_action(self, asked), None

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000
