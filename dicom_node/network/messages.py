"""From fragments to messages (PS3.7 6.3.1, PS3.8 Annex E): in order, bounded, and nothing lost on the way."""

from __future__ import annotations

import logging
from io import BytesIO
from typing import cast

from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import (
    _MESSAGE_TYPES,
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    N_EVENT_REPORT_RQ,
    DIMSEMessage,
)
from pynetdicom.dimse_primitives import C_STORE, N_EVENT_REPORT
from pynetdicom.dsutils import create_file_meta, decode
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.service_class import StorageServiceClass, VerificationServiceClass
from pynetdicom.sop_class import uid_to_service_class

from dicom_node.network.spool import Spool, SpoolLimits

log = logging.getLogger(__name__)

LONGEST_COMMAND_SET = 1 << 14
"""Bytes; a C-STORE-RQ has about 300."""

LONGEST_DATA_SET = 1 << 22
"""Bytes of a data set that is kept in memory, as of N-EVENT-REPORT: some ten thousand references."""

_NO_DATA_SET = 0x0101  # (0000,0800), PS3.7 Table 9.3-1
_MEDIUM = 0x0000
_SERVED = (C_STORE_RQ, C_ECHO_RQ, N_EVENT_REPORT_RQ)


class BrokenRule(Exception):
    """The peer broke a rule of the standard; `str()` names it."""


def remove_spool(request: object) -> None:
    """Remove the file of a C-STORE request, if it is still there."""
    spool = getattr(request, "_dataset_file", None)
    if isinstance(spool, Spool):
        spool.remove()


class Inbox(DIMSEServiceProvider):  # type: ignore[misc]
    """Puts messages together for an association that a peer opened.

    pynetdicom's takes fragments in any order and of any presentation context, keeps command sets and data
    sets of any length in memory, drops the fragments that follow the end of a message in the same PDU,
    starts a thread for each N-EVENT-REPORT, and never answers a request that lacks an attribute. Here
    whoever breaks a rule is aborted (A-P-ABORT, PS3.8 9.3.8); a C-STORE without (0000,0700) counts as of
    medium priority.
    """

    def __init__(self, association: Association, limits: SpoolLimits) -> None:
        """Wait for a message."""
        super().__init__(association)
        self._limits = limits
        self._command = bytearray()
        self._has_command = False
        self._data_bytes = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the fragments of one P-DATA-TF PDU."""
        try:
            for context_id, fragment in primitive.presentation_data_value_list:
                self._take(context_id, fragment)
        except BrokenRule as rule:
            log.warning(
                "association ends for what its peer sent",
                extra={"action": "peer-broke-rules", "code": str(rule)},
            )
            self.drop_partial()
            self.dul.event_queue.put("Evt19")

    def drop_partial(self) -> None:
        """Forget the message under way."""
        spool = getattr(self.message, "_data_set_file", None)
        if isinstance(spool, Spool):
            spool.remove()
        self._begin_anew()

    def drop_all(self) -> None:
        """Forget what nobody will serve any more."""
        self.drop_partial()
        while not self.msg_queue.empty():
            _, request = self.msg_queue.get_nowait()
            remove_spool(request)

    def _begin_anew(self) -> None:
        self.message = None
        self._command = bytearray()
        self._has_command = False
        self._data_bytes = 0

    def _take(self, context_id: int, fragment: bytes) -> None:
        if not fragment:
            raise BrokenRule("fragment-empty")
        is_command, is_last, some = fragment[0] & 1, fragment[0] & 2, fragment[1:]
        message = self.message
        if message is None:
            self.message = message = DIMSEMessage()
            message.context_id = context_id
        if context_id != message.context_id:
            raise BrokenRule("contexts-mixed")
        if is_command and self._has_command:
            raise BrokenRule("command-inside-data-set")
        if not is_command and not self._has_command:
            raise BrokenRule("data-set-before-command")
        if is_command:
            self._command += some
            if len(self._command) > LONGEST_COMMAND_SET:
                raise BrokenRule("command-set-too-long")
            if is_last:
                self._read_command(message)
        else:
            self._keep(message, some)
            if is_last:
                self._deliver(message)

    def _read_command(self, message: DIMSEMessage) -> None:
        self._has_command = True
        context = self.assoc._accepted_cx.get(message.context_id)
        if context is None:
            raise BrokenRule("context-not-accepted")
        try:
            message.command_set = decode(BytesIO(bytes(self._command)), True, True)
            message.__class__ = _MESSAGE_TYPES[message.command_set.CommandField][1]
            has_data_set = message.command_set.CommandDataSetType != _NO_DATA_SET
        except Exception as error:  # pydicom raises what it likes
            raise BrokenRule("command-set-unreadable") from error
        if isinstance(message, C_CANCEL_RQ):
            # Of an operation that is over, or that we never offered: PS3.7 9.3.2.3 lets us ignore it.
            self._begin_anew()
            return
        if not isinstance(message, _SERVED):
            raise BrokenRule("command-unexpected")
        if not has_data_set:
            message.data_set = None
            self._deliver(message)
        elif isinstance(message, C_STORE_RQ):
            self._open_spool(message, str(context.transfer_syntax[0]))

    def _open_spool(self, message: DIMSEMessage, transfer_syntax: str) -> None:
        meta = DicomBytesIO()
        try:
            write_file_meta_info(
                meta,
                create_file_meta(
                    sop_class_uid=message.command_set.AffectedSOPClassUID,
                    sop_instance_uid=message.command_set.AffectedSOPInstanceUID,
                    transfer_syntax=transfer_syntax,
                ),
            )
        except Exception as error:
            raise BrokenRule("command-set-unreadable") from error
        spool = Spool(self._limits)
        message._data_set_file = spool
        message._data_set_path = spool.name
        spool.write(b"\x00" * 128 + b"DICM" + meta.getvalue())

    def _keep(self, message: DIMSEMessage, some: bytes) -> None:
        if message._data_set_file is not None:
            cast(Spool, message._data_set_file).write(some)
            return
        self._data_bytes += len(some)
        if self._data_bytes > LONGEST_DATA_SET:
            raise BrokenRule("data-set-too-long")
        cast(BytesIO, message.data_set).write(some)

    def _deliver(self, message: DIMSEMessage) -> None:
        evt.trigger(self.assoc, evt.EVT_DIMSE_RECV, {"message": message})
        if message._data_set_file is not None:
            cast(Spool, message._data_set_file).close()
        try:
            request = message.message_to_primitive()
        except Exception as error:
            raise BrokenRule("command-set-invalid") from error
        if isinstance(request, C_STORE) and request.Priority is None:
            request.Priority = _MEDIUM
        if isinstance(request, C_STORE) and request.DataSet is None:
            request.DataSet = BytesIO()  # for the handler to refuse: the sender gets an answer
        if not request.is_valid_request:
            raise BrokenRule("request-incomplete")
        if not isinstance(request, N_EVENT_REPORT):
            service = StorageServiceClass if isinstance(request, C_STORE) else VerificationServiceClass
            if uid_to_service_class(request.AffectedSOPClassUID) is not service:
                # pynetdicom goes by the class alone: it would answer such a C-STORE as a C-ECHO: success.
                raise BrokenRule("class-of-another-service")
        self.msg_queue.put((message.context_id, request))
        self._begin_anew()
