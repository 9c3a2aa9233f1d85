"""Protocol data units on a connection (PS3.8 9.3): whole, in their time, of their length, and not copied."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from typing import BinaryIO

from dicom_node.network.rules import BrokenRule

A_ASSOCIATE_RQ = 0x01
A_ASSOCIATE_AC = 0x02
A_ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
A_RELEASE_RP = 0x06
A_ABORT = 0x07

RELEASE_REQUEST = bytes.fromhex("050000000004 00000000")
RELEASE_RESPONSE = bytes.fromhex("060000000004 00000000")
ABORT_BY_PROVIDER = bytes.fromhex("070000000004 00000200")
"""PS3.8 9.3.8: source 2, the service provider; reason 0, not specified."""
ABORT_BY_USER = bytes.fromhex("070000000004 00000000")
"""PS3.8 9.3.8: source 0, the service user."""

_HEADER = struct.Struct(">BxL")
_ITEM = struct.Struct(">LBB")
"""A presentation data value: its length, presentation context, message control header (PS3.8 Annex E.2)."""
_KNOWN = range(0x01, 0x08)
_LONGEST_OTHER = 1 << 18
"""The A-ASSOCIATE-RQ has been read before; the others have a few bytes."""
_LEAST_DATA = 1 << 18
_MOST_FRAGMENTS = 1024
_FIRST_BUFFER = 1 << 14
_DRAIN_S = 1.0
_ANY_LENGTH = 1 << 17
"""Bytes of a P-DATA-TF for a peer that takes any, or very long ones."""
_SENT_AT_ONCE = 1 << 20
"""Bytes of a data set that are handed to the socket together: most results are one piece."""
_MOST_SLICES = 512
"""PDUs that are read with one call; the kernel takes 1024."""
_HEADERS = struct.Struct(">BxLLBB")
"""Those of a P-DATA-TF with one presentation data value."""

IS_COMMAND, IS_LAST = 0x01, 0x02


class PeerGone(Exception):
    """The connection has ended without a word."""


class PeerReleased(PeerGone):
    """The peer has asked for release, and got it."""


class PeerSilent(Exception):
    """The peer said nothing for too long, or took too long over one PDU."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A presentation data value. `some` is a view that holds until the next PDU is read."""

    context_id: int
    control: int
    some: memoryview


class PduReader:
    """Reads PDUs from a connected socket, plain or TLS, into one buffer, as large as the peer needs it."""

    def __init__(self, connected: socket.socket, longest_data: int, idle_timeout_s: float) -> None:
        """Read from `connected`.

        longest_data    what we announced; twice as much is let pass, for peers that do not keep to it.
        idle_timeout_s  for a PDU to begin, and for one to be complete once it has begun.
        """
        self._socket = connected
        self._longest_data = max(2 * longest_data, _LEAST_DATA)
        self._idle_timeout_s = idle_timeout_s
        self._buffer = bytearray(_FIRST_BUFFER)
        self._start = self._end = 0

    def read(self, within_s: float | None = None) -> tuple[int, memoryview]:
        """The next PDU as (type, body); the body is a view that holds until the next call.

        within_s  instead of `idle_timeout_s`. After PeerSilent the next call goes on where this one ended.

        Raises PeerGone, PeerSilent, BrokenRule for a type or a length that no peer may send.
        """
        limit_s = self._idle_timeout_s if within_s is None else within_s
        self._have(_HEADER.size, limit_s)
        kind, length = _HEADER.unpack_from(self._buffer, self._start)
        if kind not in _KNOWN:
            raise BrokenRule("pdu-unknown")
        if length > (self._longest_data if kind == P_DATA_TF else _LONGEST_OTHER):
            raise BrokenRule("pdu-too-long")
        self._have(_HEADER.size + length, limit_s)
        first = self._start + _HEADER.size
        self._start = first + length
        return kind, memoryview(self._buffer)[first : self._start]

    def _have(self, wanted: int, limit_s: float) -> None:
        """Return when so many bytes of the PDU that comes next are in the buffer."""
        if self._end - self._start >= wanted:
            return
        if self._start == self._end:
            self._start = self._end = 0
        if len(self._buffer) - self._start < wanted:
            rest = self._buffer[self._start : self._end]
            if len(self._buffer) < wanted:
                # Views of the old buffer may still be about: it must not be resized.
                self._buffer = bytearray(2 * wanted)
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        deadline = time.monotonic() + limit_s
        room = memoryview(self._buffer)
        while self._end - self._start < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                raise PeerSilent
            try:
                self._socket.settimeout(left)
                count = self._socket.recv_into(room[self._end :])
            except TimeoutError as error:
                raise PeerSilent from error
            except OSError as error:  # reset, or closed under us
                raise PeerGone from error
            if not count:
                raise PeerGone
            self._end += count


def fragments_of(body: memoryview) -> Iterator[Fragment]:
    """The presentation data values of a P-DATA-TF (PS3.8 9.3.5.1); raises BrokenRule."""
    at = number = 0
    while at < len(body):
        if len(body) - at < _ITEM.size or number == _MOST_FRAGMENTS:
            raise BrokenRule("fragments-unreadable")
        length, context_id, control = _ITEM.unpack_from(body, at)
        end = at + 4 + length
        if length < 2 or end > len(body):
            raise BrokenRule("fragments-unreadable")
        yield Fragment(context_id, control, body[at + _ITEM.size : end])
        at, number = end, number + 1
    if not number:
        raise BrokenRule("fragments-unreadable")


def command_pdus(context_id: int, command_set: bytes, longest: int) -> bytes:
    """A command set as P-DATA-TF PDUs that a peer with this maximum length takes (0: any)."""
    step = len(command_set) if longest == 0 else max(1, longest - _ITEM.size)
    out = bytearray()
    for at in range(0, len(command_set), step):
        some = command_set[at : at + step]
        control = IS_COMMAND | (IS_LAST if at + step >= len(command_set) else 0)
        out += _HEADER.pack(P_DATA_TF, len(some) + _ITEM.size)
        out += _ITEM.pack(len(some) + 2, context_id, control) + some
    return bytes(out)


class Packer:
    """Makes P-DATA-TF PDUs of data sets, read straight to where they are sent from: one buffer for all."""

    def __init__(self, longest: int) -> None:
        """Make PDUs of up to `longest` bytes, the maximum length of the peer (0: any)."""
        # No longer than is of use, whatever the peer takes. Fragments have an even length (PS3.8 E.2).
        self._step = max(2, min(longest or _ANY_LENGTH, _ANY_LENGTH) - _ITEM.size) & ~1
        self._whole = _HEADERS.size + self._step
        self._at_once = min(_MOST_SLICES, max(1, _SENT_AT_ONCE // self._whole))
        self._buffer = memoryview(bytearray())

    def pack(self, context_id: int, source: BinaryIO, size: int) -> Iterator[memoryview]:
        """A data set of `size` bytes. Each view has some PDUs, and holds until another is made.

        Raises EOFError if the source ends early, and what reading it raises.
        """
        wanted = min(self._at_once, -(-size // self._step)) * self._whole
        if len(self._buffer) < wanted:
            self._buffer = memoryview(bytearray(wanted))
        left = size
        while left:
            count = min(self._at_once, -(-left // self._step))
            some = min(left, count * self._step)
            left -= some
            slices = self._frame(context_id, some, is_last=not left)
            _read_into(source, slices)
            yield self._buffer[: some + count * _HEADERS.size]

    def _frame(self, context_id: int, some: int, *, is_last: bool) -> list[memoryview]:
        """Write the headers; return where the bytes between them belong."""
        buffer, slices = self._buffer, []
        for at in range(0, some, self._step):
            size = min(self._step, some - at)
            control = IS_LAST if is_last and at + size == some else 0
            start = at // self._step * self._whole
            _HEADERS.pack_into(buffer, start, P_DATA_TF, size + _ITEM.size, size + 2, context_id, control)
            slices.append(buffer[start + _HEADERS.size : start + _HEADERS.size + size])
        return slices


def _read_into(source: BinaryIO, slices: list[memoryview]) -> None:
    """Fill the slices; raises EOFError."""
    if isinstance(source, FileIO):
        got = os.readv(source.fileno(), slices)
        while slices and got >= len(slices[0]):
            got -= len(slices.pop(0))
        if not slices:
            return
        slices[0] = slices[0][got:]
    for each in slices:
        at = 0
        while at < len(each):
            got = source.readinto(each[at:])  # type: ignore[attr-defined]
            if not got:
                raise EOFError
            at += got


def see_off(connected: socket.socket) -> None:
    """PS3.8 state 13: our last word is on its way; what the peer still sends is dropped, for a moment.

    Closing with unread data would reset the connection, and take our last word back.
    """
    deadline = time.monotonic() + _DRAIN_S
    with suppress(OSError):
        while (left := deadline - time.monotonic()) > 0:
            connected.settimeout(left)
            if not connected.recv(1 << 16):
                return
