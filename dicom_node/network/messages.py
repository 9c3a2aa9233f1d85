"""From fragments to messages (PS3.7 6.3.1, PS3.8 Annex E): in order, bounded, and nothing lost on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.dicom.part10 import file_head
from dicom_node.network.blanks import BlankFiles
from dicom_node.network.command import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    N_EVENT_REPORT_RQ,
    Answer,
    Command,
    is_answer,
    read_answer,
    read_command,
)
from dicom_node.network.pdu import IS_COMMAND, IS_LAST, Fragment
from dicom_node.network.rules import BrokenRule
from dicom_node.network.spool import Spool, SpoolLimits

LONGEST_COMMAND_SET = 1 << 14
"""Bytes; a C-STORE-RQ has about 300."""

LONGEST_DATA_SET = 1 << 22
"""Bytes of a data set that is kept in memory, as of N-EVENT-REPORT: some ten thousand references."""

_SERVICES = {str(Verification): C_ECHO_RQ, str(StorageCommitmentPushModel): N_EVENT_REPORT_RQ}
"""Abstract syntax -> the one request that is served in its contexts; in all others it is C-STORE."""


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(slots=True, eq=False)
class Message:
    """A request that has arrived whole."""

    context_id: int
    context: Context
    command: Command
    spool: Spool | None = None
    """The data set of a C-STORE, as a Part 10 file."""
    data_set: bytearray | None = None
    """The data set of anything else."""


class Inbox:
    """Puts the messages of one association together.

    Whoever breaks a rule is aborted (A-P-ABORT, PS3.8 9.3.8). A C-STORE without (0000,0700) counts as of
    medium priority; a C-CANCEL of what is over, or was never offered, is ignored (PS3.7 9.3.2.3).
    """

    def __init__(self, contexts: Mapping[int, Context], limits: SpoolLimits) -> None:
        """Wait for a message in one of these presentation contexts."""
        self._contexts = contexts
        self._limits = limits
        self._blanks = BlankFiles(limits.folder, limits.number)
        self._context_id: int | None = None
        self._command_set = bytearray()
        self._message: Message | None = None

    def take(self, fragment: Fragment) -> Message | None:
        """Take one fragment; return the message that it completes. Raises BrokenRule."""
        if self._context_id is None:
            self._context_id = fragment.context_id
        if fragment.context_id != self._context_id:
            raise BrokenRule("contexts-mixed")
        if fragment.control & IS_COMMAND:
            return self._take_command(fragment)
        return self._take_data(fragment)

    def prepare(self) -> None:
        """Make ready for another object, while the peer still thinks about its last answer."""
        self._blanks.prepare()

    def close(self) -> None:
        """Forget the message under way; no other will come."""
        self._blanks.remove()
        if self._message is not None and self._message.spool is not None:
            self._message.spool.remove()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._context_id = None
        self._command_set = bytearray()
        self._message = None

    def _take_command(self, fragment: Fragment) -> Message | None:
        if self._message is not None:
            raise BrokenRule("command-inside-data-set")
        self._command_set += fragment.some
        if len(self._command_set) > LONGEST_COMMAND_SET:
            raise BrokenRule("command-set-too-long")
        if not fragment.control & IS_LAST:
            return None
        context = self._contexts.get(fragment.context_id)
        if context is None:
            raise BrokenRule("context-not-accepted")
        command = read_command(self._command_set)
        if command.field == C_CANCEL_RQ:
            self._begin_anew()
            return None
        _require_possible(command, context)
        self._message = message = Message(fragment.context_id, context, command)
        if not command.has_data_set:
            return self._whole()
        if command.field == C_STORE_RQ:
            message.spool = Spool(self._limits, context.transfer_syntax, self._blanks)
            message.spool.begin(
                file_head(command.sop_class_uid, command.sop_instance_uid, context.transfer_syntax)
            )
        else:
            message.data_set = bytearray()
        return None

    def _take_data(self, fragment: Fragment) -> Message | None:
        message = self._message
        if message is None:
            raise BrokenRule("data-set-before-command")
        if message.spool is not None:
            message.spool.write(fragment.some)
        else:
            assert message.data_set is not None
            message.data_set += fragment.some
            if len(message.data_set) > LONGEST_DATA_SET:
                raise BrokenRule("data-set-too-long")
        return self._whole() if fragment.control & IS_LAST else None

    def _whole(self) -> Message | None:
        message = self._message
        if message is not None and message.spool is not None:
            message.spool.end()
        self._begin_anew()
        return message


def _require_possible(command: Command, context: Context) -> None:
    """Raise BrokenRule for a request that is not of its context's service, or that cannot be answered."""
    served = _SERVICES.get(context.abstract_syntax, C_STORE_RQ)
    if command.field != served:
        known = command.field in (C_STORE_RQ, *_SERVICES.values())
        raise BrokenRule("request-of-another-service" if known else "command-unexpected")
    lacks_instance = not command.sop_instance_uid and served != C_ECHO_RQ
    lacks_event = command.event_type is None and served == N_EVENT_REPORT_RQ
    if command.message_id is None or not command.sop_class_uid or lacks_instance or lacks_event:
        raise BrokenRule("request-incomplete")


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on an association that we opened: an answer, or a request of the peer's."""

    context_id: int
    command: Answer | Command
    data_set: bytes


class Mailbox:
    """Puts together the messages that come on an association that we opened: small, and kept in memory."""

    def __init__(self) -> None:
        """Wait for a message."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._context_id: int | None = None
        self._command_set = bytearray()
        self._command: Answer | Command | None = None
        self._data_set = bytearray()

    def take(self, fragment: Fragment) -> Letter | None:
        """Take one fragment; return the message that it completes. Raises BrokenRule."""
        if self._context_id is None:
            self._context_id = fragment.context_id
        if fragment.context_id != self._context_id:
            raise BrokenRule("contexts-mixed")
        if fragment.control & IS_COMMAND:
            return self._take_command(fragment)
        return self._take_data(fragment)

    def _take_command(self, fragment: Fragment) -> Letter | None:
        if self._command is not None:
            raise BrokenRule("command-inside-data-set")
        self._command_set += fragment.some
        if len(self._command_set) > LONGEST_COMMAND_SET:
            raise BrokenRule("command-set-too-long")
        if not fragment.control & IS_LAST:
            return None
        encoded = self._command_set
        self._command = read_answer(encoded) if is_answer(encoded) else read_command(encoded)
        return None if self._command.has_data_set else self._whole(self._command)

    def _take_data(self, fragment: Fragment) -> Letter | None:
        if self._command is None:
            raise BrokenRule("data-set-before-command")
        self._data_set += fragment.some
        if len(self._data_set) > LONGEST_DATA_SET:
            raise BrokenRule("data-set-too-long")
        return self._whole(self._command) if fragment.control & IS_LAST else None

    def _whole(self, command: Answer | Command) -> Letter:
        letter = Letter(self._context_id or 0, command, bytes(self._data_set))
        self._begin_anew()
        return letter
