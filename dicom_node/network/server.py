"""The door: one thread that accepts connections and lets in those that ask for an association in time."""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from dicom_node.core.errors import NodeError
from dicom_node.network.pdu import A_ASSOCIATE_RQ
from dicom_node.network.tls import server_code
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)

_MOST_TOLD = 32
_TLS_HANDSHAKE = 0x16
_HEADER_BYTES = 6  # PS3.8 9.3.1: type, reserved, length
_SHORTEST_REQUEST = 68  # PS3.8 Table 9-11: everything before the variable items
_LONGEST_REQUEST = 1 << 18
"""128 presentation contexts with 40 transfer syntaxes each, and room for user information."""
_TICK_S = 0.5
_PAUSE_S = 0.2
_AFTER_YOU_S = 0.004
"""Long enough for another process to wake and accept, even if it is at work; no peer notices it."""
_TALLY_S = 10.0
_ABORT_GRACE_S = 5.0
_IN_THE_HALL = 16
"""Associations in threads beyond those that have a seat: on their way in, or on their way out."""

# PS3.8 9.3.4: rejected transient (2) by the presentation layer's provider (3), local limit exceeded (2).
_REJECT_FULL = bytes.fromhex("0300000000040002 0302")
# PS3.8 9.3.8: aborted by the service provider (2).
_ABORT_UNEXPECTED = bytes.fromhex("070000000004 00000202")
_ABORT_INVALID = bytes.fromhex("070000000004 00000206")

_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens. tls gives the context for each new connection; None is plain DICOM."""

    bound: socket.socket
    """Non-blocking. Other processes may accept from it too."""
    tls: Callable[[], ssl.SSLContext] | None = None


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """What one door takes, over all its listeners.

    max_associations          with a thread each; beyond: rejected, local limit exceeded
    max_waiting               connections that have not asked for an association yet, in all
    max_waiting_per_address   the same from one address; one more ends the one that waits longest
    request_timeout_s         from the connection (TLS handshake included) to the whole A-ASSOCIATE-RQ
    max_duration_s            longest life of an association; then it is aborted
    """

    max_associations: int
    max_waiting: int
    max_waiting_per_address: int
    request_timeout_s: float
    max_duration_s: float


class Visit(Protocol):
    """An association that the door let in."""

    def start(self) -> None:
        """Start its threads; RuntimeError if there are none to be had."""

    def abort(self) -> None:
        """Ask it to end."""

    def cut(self) -> None:
        """Make its connection end, without waiting for anybody."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A connection whose A-ASSOCIATE-RQ has been read. Over TLS the socket is an SSLSocket."""

    socket: socket.socket
    address: tuple[str, int]
    request: bytes
    left: Callable[[Visit], None]
    """To be called when the association has ended."""


@dataclass(slots=True, eq=False)
class _Guest:
    """A connection that has not asked for an association yet. It costs no thread."""

    socket: socket.socket
    address: tuple[str, int]
    deadline: float
    handshaking: bool
    greeted: bool = False
    """Over TLS: has its first byte been looked at?"""
    needed: int = _HEADER_BYTES
    read: bytearray = field(default_factory=bytearray)


class Door:
    """Accepts for all listeners, reads each connection's first PDU, and hands it to `welcome`.

    Health checks, port scans and connections that stay silent never cost a thread or an association.
    When too many wait, the one that has waited longest goes: an honest peer asks within milliseconds.
    """

    def __init__(
        self,
        listeners: Iterable[Listener],
        limits: DoorLimits,
        welcome: Callable[[Arrived], Visit],
        tell_turned_away: Callable[[str, str, int], None] = lambda reason, address, count: None,
        has_more: Callable[[], bool] = lambda: False,
        tell_count: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Prepare; nobody is let in before `start`.

        tell_turned_away  is for the audit trail.
        has_more          has this process more connections than another that accepts from the same sockets?
        tell_count        told how many connections this one has.
        """
        self._listeners = tuple(listeners)
        self._limits = limits
        self._welcome = welcome
        self._tell_turned_away = tell_turned_away
        self._has_more = has_more
        self._tell_count = tell_count
        self._selector = selectors.DefaultSelector()
        self._guests: dict[_Guest, None] = {}  # in the order of arrival
        self._visits: dict[Visit, float] = {}
        self._cuts: dict[Visit, float] = {}
        self._visits_lock = threading.Lock()
        self._paused_until: float | None = None
        self._tally: Counter[tuple[str, str]] = Counter()
        self._tallied_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)

    def start(self) -> None:
        """Accept."""
        self._listen()
        self._thread.start()

    def stop(self, drain_s: float) -> None:
        """Take nobody in, give open associations `drain_s` seconds to end, then abort them."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + drain_s
        while self._open_visits() and time.monotonic() < deadline:
            time.sleep(0.05)
        for visit in self._open_visits():
            visit.abort()
        deadline = time.monotonic() + _ABORT_GRACE_S
        while self._open_visits() and time.monotonic() < deadline:
            time.sleep(0.05)
        for visit in self._open_visits():
            visit.cut()

    # -- the loop ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for key, _ in self._selector.select(_TICK_S):
                    self._guarded(key)
                self._tick(time.monotonic())
        finally:
            for guest in list(self._guests):
                self._dismiss(guest)
            self._close_listeners()
            self._selector.close()
            self._report(time.monotonic() + _TALLY_S)

    def _guarded(self, key: selectors.SelectorKey) -> None:
        """One connection's trouble is nobody else's."""
        try:
            if isinstance(key.data, _Guest):
                if key.data in self._guests:  # not dismissed by an earlier event of this round
                    self._serve(key.data)
            else:
                self._accept(key.data)
        except Exception as error:  # noqa: BLE001 - the loop must go on for everybody else
            log.error(
                "connection failed",
                extra={"action": "connection-failed", "code": type(error).__name__, "where": where(error)},
            )
            if isinstance(key.data, _Guest):
                self._dismiss(key.data)

    def _tick(self, now: float) -> None:
        for guest in [guest for guest in self._guests if guest.deadline <= now]:
            self._turn_away(guest, "request-timeout")
        if self._paused_until is not None and self._paused_until <= now:
            self._listen()
        with self._visits_lock:
            overdue = [v for v, since in self._visits.items() if now - since > self._limits.max_duration_s]
            fresh = [visit for visit in overdue if visit not in self._cuts]
            due = [visit for visit, at in self._cuts.items() if at <= now]
            self._cuts |= dict.fromkeys(fresh, now + _ABORT_GRACE_S)
        for visit in fresh:
            log.warning(
                "association lasts too long and is aborted",
                extra={"action": "association-overdue", "seconds": self._limits.max_duration_s},
            )
            visit.abort()
        for visit in due:
            visit.cut()
        self._report(now)

    # -- connections ------------------------------------------------------------------------

    def _accept(self, listener: Listener) -> None:
        """One at a time, and after others that have fewer: of many that come at once, each gets its share."""
        if self._has_more():
            time.sleep(_AFTER_YOU_S)
        try:
            accepted, address = listener.bound.accept()
        except BlockingIOError:
            return  # another process was first
        except OSError as error:
            if error.errno in _NO_MORE:
                self._pause(error)
            return  # or that one is gone already
        self._seat(accepted, (str(address[0]), int(address[1])), listener)

    def _seat(self, accepted: socket.socket, address: tuple[str, int], listener: Listener) -> None:
        try:
            accepted.setblocking(False)
            if listener.tls is not None:
                accepted = listener.tls().wrap_socket(
                    accepted, server_side=True, do_handshake_on_connect=False
                )
        except NodeError:  # who keeps the certificates has told the log what is wrong with them
            self._tally["tls-own-certificate-unusable", address[0]] += 1
            accepted.close()
            return
        except Exception:
            accepted.close()
            raise
        deadline = time.monotonic() + self._limits.request_timeout_s
        guest = _Guest(accepted, address, deadline, handshaking=listener.tls is not None)
        self._make_room(address[0])
        self._guests[guest] = None
        self._selector.register(accepted, selectors.EVENT_READ, guest)
        self._count()

    def _make_room(self, address: str) -> None:
        """Whoever has waited longest goes, first of the same address, then of all."""
        same = [guest for guest in self._guests if guest.address[0] == address]
        if len(same) >= self._limits.max_waiting_per_address:
            self._turn_away(same[0], "too-many-waiting")
        elif len(self._guests) >= self._limits.max_waiting:
            self._turn_away(next(iter(self._guests)), "too-many-waiting")

    def _serve(self, guest: _Guest) -> None:
        interest = selectors.EVENT_READ
        try:
            if guest.handshaking:
                assert isinstance(guest.socket, ssl.SSLSocket)
                if not guest.greeted and not self._speaks_tls(guest):
                    return
                guest.socket.do_handshake()
                guest.handshaking = False
            while len(guest.read) < guest.needed:
                some = guest.socket.recv(guest.needed - len(guest.read))
                if not some:
                    self._dismiss(guest)  # a health check, or a peer that changed its mind
                    return
                guest.read += some
                if len(guest.read) == _HEADER_BYTES and not self._is_promising(guest):
                    return
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except ssl.SSLWantWriteError:
            interest = selectors.EVENT_WRITE
        except ssl.SSLError as error:
            self._turn_away(guest, server_code(error))
            return
        except OSError:
            self._dismiss(guest)
            return
        else:
            self._hand_over(guest)
            return
        self._selector.modify(guest.socket, interest, guest)

    def _speaks_tls(self, guest: _Guest) -> bool:
        """Look at the first byte, which stays unread; or turn away whoever mistook the port."""
        first = socket.socket.recv(guest.socket, 1, socket.MSG_PEEK)  # past the TLS layer
        guest.greeted = True
        if not first:
            self._dismiss(guest)  # a health check
        elif first[0] == A_ASSOCIATE_RQ:
            self._turn_away(guest, "plain-dicom-on-tls-port")
        elif first[0] != _TLS_HANDSHAKE:
            self._turn_away(guest, "no-tls-on-tls-port")
        else:
            return True
        return False

    def _is_promising(self, guest: _Guest) -> bool:
        """Judge the header of the first PDU, and wait for the rest of it; or turn the guest away."""
        length = int.from_bytes(guest.read[2:], "big")
        if guest.read[0] == _TLS_HANDSHAKE and not isinstance(guest.socket, ssl.SSLSocket):
            self._turn_away(guest, "tls-on-plain-port")
        elif guest.read[0] != A_ASSOCIATE_RQ:
            self._turn_away(guest, "not-dicom", _ABORT_UNEXPECTED)
        elif not _SHORTEST_REQUEST <= length <= _LONGEST_REQUEST:
            self._turn_away(guest, "request-length", _ABORT_INVALID)
        else:
            guest.needed = _HEADER_BYTES + length
            return True
        return False

    def _hand_over(self, guest: _Guest) -> None:
        with self._visits_lock:
            full = len(self._visits) >= self._limits.max_associations + _IN_THE_HALL
        if full:
            self._turn_away(guest, "too-many-associations", _REJECT_FULL)
            return
        self._selector.unregister(guest.socket)
        del self._guests[guest]
        try:
            guest.socket.setblocking(True)
            visit = self._welcome(Arrived(guest.socket, guest.address, bytes(guest.read), self._left))
            with self._visits_lock:
                self._visits[visit] = time.monotonic()
            try:
                visit.start()
            except BaseException:
                self._left(visit)
                raise
        except BaseException:
            guest.socket.close()
            raise

    def _left(self, visit: Visit) -> None:
        with self._visits_lock:
            self._visits.pop(visit, None)
            self._cuts.pop(visit, None)
        self._count()

    def _count(self) -> None:
        self._tell_count(len(self._guests) + len(self._visits))

    def _open_visits(self) -> list[Visit]:
        with self._visits_lock:
            return list(self._visits)

    def _dismiss(self, guest: _Guest) -> None:
        if guest in self._guests:
            del self._guests[guest]
            with suppress(KeyError, ValueError):
                self._selector.unregister(guest.socket)
            self._count()
        guest.socket.close()

    def _turn_away(self, guest: _Guest, reason: str, answer: bytes = b"") -> None:
        self._tally[reason, guest.address[0]] += 1
        if answer:
            with suppress(OSError):
                guest.socket.send(answer)
                # Closing with unread data would reset the connection and take the answer back.
                guest.socket.shutdown(socket.SHUT_WR)
                guest.socket.recv(65536)
        self._dismiss(guest)

    # -- listening --------------------------------------------------------------------------

    def _listen(self) -> None:
        self._paused_until = None
        for listener in self._listeners:
            with suppress(KeyError):  # it is there already
                self._selector.register(listener.bound, selectors.EVENT_READ, listener)

    def _pause(self, error: OSError) -> None:
        """No descriptor or memory for another connection: make room and look again in a moment."""
        log.error(
            "no more connections for a moment",
            extra={"action": "door-pause", "code": errno.errorcode.get(error.errno or 0, "OSError")},
        )
        if self._guests:
            self._turn_away(next(iter(self._guests)), "no-resources")
        self._paused_until = time.monotonic() + _PAUSE_S
        for listener in self._listeners:
            with suppress(KeyError):
                self._selector.unregister(listener.bound)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.bound.close()

    def _report(self, now: float) -> None:
        """Who was turned away and why: one line for each reason and address, not one for each connection."""
        if not self._tally or now - self._tallied_at < _TALLY_S:
            return
        for (reason, address), count in self._tally.most_common(_MOST_TOLD):
            self._tell_turned_away(reason, address, count)
            log.warning(
                "connections turned away",
                extra={
                    "action": "connections-turned-away",
                    "code": reason,
                    "address": address,
                    "count": count,
                },
            )
        self._tally.clear()
        self._tallied_at = now
