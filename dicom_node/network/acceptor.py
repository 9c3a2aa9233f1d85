"""Associations that others open to us: pynetdicom's, with bounds on what a peer can make them cost.

What is different here is in the docstrings; `test_pynetdicom_still_needs_it` fails when pynetdicom has
mended what it tries, and then what it tries can go from here.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import pynetdicom
from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_P_ABORT, P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.network.messages import BrokenRule, Inbox, remove_spool
from dicom_node.network.server import Arrived
from dicom_node.network.spool import SpoolLimits
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)

_HEADER_BYTES = 6
_P_DATA = 0x04
_KNOWN_PDUS = range(0x01, 0x08)  # PS3.8 9.3
_LONGEST_OTHER_PDU = 1 << 18
"""The A-ASSOCIATE-RQ has been read before; the others have a few bytes."""
_LEAST_DATA_PDU = 1 << 18
_MOST_FRAGMENTS = 1024
_MOST_MESSAGES_WAITING = 2
"""While one is served. Asynchronous operations are never negotiated: a peer should send none."""
_DRAIN_S = 1.0
_POLL_S = 0.001
_QUIET_POLL_S = 0.02
_QUIET_AFTER_S = 2.0

_ABORT_BY_PROVIDER = bytes.fromhex("070000000004 00000200")


class Connection(AssociationSocket):  # type: ignore[misc]
    """A connected socket that always gets closed, and gives a PDU so long and no longer.

    pynetdicom's leaves the descriptor open when the peer has reset the connection (`shutdown` raises and
    `close` is never reached), fails for descriptors above 1023 (`select`), and gives each `recv` of 4096
    bytes a new time limit, so that one PDU may take for ever.
    """

    def __init__(self, association: Association, connected: socket.socket, ahead: bytes) -> None:
        """Wrap a connected socket; `ahead` has been read from it already."""
        super().__init__(association, client_socket=connected)
        self._ahead = ahead
        self.deadline: float | None = None
        """time.monotonic() at which what is being read has to be complete."""

    @property
    def ready(self) -> bool:
        """Is there something to read?"""
        if self._ahead:
            return True
        connected = self.socket
        if connected is None or not self._is_connected:
            return False
        if isinstance(connected, ssl.SSLSocket) and connected.pending():
            return True
        try:
            poll = select.poll()
            poll.register(connected, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):  # closed under us
            self.event_queue.put("Evt17")
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly so many bytes; fewer mean that the peer has closed. Raises TimeoutError, OSError."""
        read = bytearray(self._ahead[:nr_bytes])
        self._ahead = self._ahead[nr_bytes:]
        connected = self.socket
        if connected is None:
            return read
        limit = connected.gettimeout()
        try:
            while len(read) < nr_bytes:
                if self.deadline is not None:
                    left = self.deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError
                    connected.settimeout(left)
                some = connected.recv(min(nr_bytes - len(read), 1 << 16))
                if not some:
                    break
                read += some
        finally:
            with suppress(OSError):
                connected.settimeout(limit)
        return read

    def discard(self) -> bool:
        """Throw away what is there; False if the peer has closed."""
        connected = self.socket
        try:
            return connected is not None and bool(connected.recv(1 << 16))
        except OSError:
            return False

    def cut(self) -> None:
        """End the connection; whoever reads or writes it returns. `_shutdown_socket` frees the descriptor."""
        connected = self.socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _shutdown_socket(self) -> None:
        connected = self.socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                connected.close()


class UpperLayer(DULServiceProvider):  # type: ignore[misc]
    """The thread that reads and writes PDUs; it always ends, and always says so.

    pynetdicom's dies of an exception in its state machine without a word: the association's thread then
    waits for its time limit, and the connection stays open. It also does not tell an association whose
    peer leaves before asking for anything.
    """

    def __init__(self, association: Acceptance) -> None:
        """Prepare; `start` runs it."""
        super().__init__(association)
        self._last_word = time.monotonic()
        self._drain_until: float | None = None

    @property
    def is_quiet(self) -> bool:
        """Has neither side said anything for a while?"""
        return time.monotonic() - self._last_word > _QUIET_AFTER_S

    def run_reactor(self) -> None:
        """Run until the association ends."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - whatever the peer sent, this association ends and no other
            log.warning(
                "association ends for what its peer sent",
                extra={"action": "peer-broke-rules", "code": type(error).__name__},
            )
            connection = cast(Connection, self.socket)
            if connection.socket is not None:
                connection.send(_ABORT_BY_PROVIDER)
            if self.assoc.is_established:
                aborted = A_P_ABORT()
                aborted.provider_reason = 0x00
                self.to_user_queue.put(aborted)
        finally:
            self._kill_thread = True
            # Nothing more will come: whoever waits for a request or a message must not wait on.
            self.to_user_queue.put(cast(Any, None))
            self.assoc.dimse.msg_queue.put((None, None))

    def _is_transport_event(self) -> bool:
        connection = cast(Connection, self.socket)
        if self.state_machine.current_state == "Sta13":
            return self._see_off(connection)
        if self.assoc.is_busy or self.assoc.dimse.msg_queue.qsize():
            # It is our turn: the peer's silence is not its fault, and what it sends meanwhile can wait.
            self._last_word = time.monotonic()
            self._idle_timer.restart()
            if self.assoc.dimse.msg_queue.qsize() >= _MOST_MESSAGES_WAITING:
                return False
        if not connection.ready:
            self._run_loop_delay = _QUIET_POLL_S if self.is_quiet else _POLL_S
            return False
        self._last_word = time.monotonic()
        self._read_pdu_data()
        return True

    def _see_off(self, connection: Connection) -> bool:
        """PS3.8 state 13: our last word is on its way; what the peer still sends is dropped, for a moment."""
        now = time.monotonic()
        if self._drain_until is None:
            self._drain_until = now + _DRAIN_S
        if now > self._drain_until or not connection.ready or not connection.discard():
            connection.close()
        return True

    def _read_pdu_data(self) -> None:
        """Read one PDU, in its time and of its length, and name the event (PS3.8 Table 9-10)."""
        connection = cast(Connection, self.socket)
        connection.deadline = time.monotonic() + self.assoc.network_timeout
        try:
            header = connection.recv(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                self.event_queue.put("Evt17")
                return
            length = int.from_bytes(header[2:], "big")
            if header[0] not in _KNOWN_PDUS:
                raise BrokenRule("pdu-unknown")
            if length > (self.assoc.longest_data_pdu if header[0] == _P_DATA else _LONGEST_OTHER_PDU):
                raise BrokenRule("pdu-too-long")
            body = connection.recv(length)
            if len(body) < length:
                self.event_queue.put("Evt17")
                return
            if header[0] == _P_DATA:
                pdu, event = _Fragments(_fragments_of(bytes(body))), "Evt10"
            else:
                pdu, event = self._decoded(header + body)
        except BrokenRule as rule:
            self._broken(str(rule))
        except TimeoutError:
            self._broken("pdu-too-slow")
        except OSError:
            self.event_queue.put("Evt17")
        else:
            self._recv_pdu.put(pdu)
            self.event_queue.put(event)
        finally:
            connection.deadline = None

    def _decoded(self, encoded: bytearray) -> tuple[Any, str]:
        try:
            return cast(tuple[Any, str], self._decode_pdu(encoded))
        except Exception as error:
            raise BrokenRule("pdu-unreadable") from error

    def _broken(self, rule: str) -> None:
        log.warning(
            "association ends for what its peer sent",
            extra={"action": "peer-broke-rules", "code": rule, "address": self.assoc.requestor.address},
        )
        self.event_queue.put("Evt19")


@dataclass(frozen=True, slots=True)
class _Fragments:
    """The presentation data values of a P-DATA-TF PDU, as (presentation context, fragment)."""

    items: list[tuple[int, bytes]]

    def to_primitive(self) -> P_DATA:
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(self.items)
        return primitive


def _fragments_of(body: bytes) -> list[tuple[int, bytes]]:
    """PS3.8 9.3.5.1. pynetdicom copies what is left of the PDU for each item: quadratic in their number."""
    items: list[tuple[int, bytes]] = []
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        end = at + 4 + length
        if length < 2 or end > len(body) or len(items) == _MOST_FRAGMENTS:
            raise BrokenRule("fragments-unreadable")
        items.append((body[at + 4], body[at + 5 : end]))
        at = end
    if not items:
        raise BrokenRule("fragments-unreadable")
    return items


class _Pace(threading.Event):
    """What pynetdicom's association waits for in each round of its loop: a moment longer when all is quiet.

    It looks for work every millisecond, in two threads: fifty silent peers would keep a processor busy.
    """

    def __init__(self, upper_layer: UpperLayer) -> None:
        """Open: the loop runs."""
        super().__init__()
        self._upper_layer = upper_layer
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """One round."""
        if self._upper_layer.is_quiet:
            time.sleep(_QUIET_POLL_S)
        return super().wait(timeout)


class Acceptance(Association):  # type: ignore[misc]
    """An association that a peer opened; when it ends, nothing of it is left."""

    def __init__(
        self,
        ae: pynetdicom.AE,
        contexts: Sequence[PresentationContext],
        handlers: Sequence[tuple[Any, ...]],
        spool: SpoolLimits,
        arrived: Arrived,
    ) -> None:
        """Prepare; `start` runs it. The connection's A-ASSOCIATE-RQ has been read already."""
        super().__init__(ae, MODE_ACCEPTOR)
        self.name = f"AcceptorThread@{arrived.address[0]}:{arrived.address[1]}"
        self.dul = UpperLayer(self)
        self.dimse = Inbox(self, spool)
        self._reactor_checkpoint = _Pace(self.dul)
        self.is_busy = False
        """Is a message being served?"""
        self.longest_data_pdu = max(2 * ae.maximum_pdu_size, _LEAST_DATA_PDU)
        """What we announced, and room for peers that do not keep to it."""
        # Which its setters write through to.
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout
        self._connection = Connection(self, arrived.socket, arrived.request)
        self._left: Callable[[Acceptance], None] = arrived.left
        self._open = False
        self.set_socket(self._connection)
        self.acceptor.maximum_length = ae.maximum_pdu_size
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.address_info = AddressInformation(*arrived.local)
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        # Shared by all: negotiation only reads them.
        self.acceptor.supported_contexts = list(contexts)
        self.requestor.address_info = AddressInformation(*arrived.address)
        for event, handler, *arguments in handlers:
            self.bind(event, handler, arguments[0] if arguments else None)
        self.bind(evt.EVT_ESTABLISHED, lambda event: self._set_open(is_open=True))
        self.bind(evt.EVT_RELEASED, lambda event: self._set_open(is_open=False))
        self.bind(evt.EVT_ABORTED, lambda event: self._set_open(is_open=False))
        evt.trigger(self, evt.EVT_CONN_OPEN, {"address": arrived.address})

    def run_reactor(self) -> None:
        """Run until the association ends, however it ends, and leave nothing behind."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - of this association; the others know nothing of it
            log.warning(
                "association ends for what its peer sent",
                extra={"action": "peer-broke-rules", "code": type(error).__name__, "where": where(error)},
            )
        finally:
            try:
                self._finish()
            finally:
                self._left(self)

    def _serve_request(self, message: Any, context_id: int) -> None:
        self.is_busy = True
        try:
            super()._serve_request(message, context_id)
        finally:
            self.is_busy = False
            # What was kept has another name by now; what was refused, or served by nobody, goes.
            remove_spool(message)

    def cut(self) -> None:
        """End the connection at once; the threads see it and end."""
        self._kill = True
        self._connection.cut()

    def _set_open(self, *, is_open: bool) -> None:
        self._open = is_open

    def _finish(self) -> None:
        self._kill = True
        self.is_established = False
        self.dul.kill_dul()
        self._connection.cut()
        if self.dul.is_alive():
            self.dul.join()
        self.dimse.drop_all()
        if self._open:
            # Ended in a way that pynetdicom has no event for; who counts associations needs one.
            evt.trigger(self, evt.EVT_ABORTED, {})
        self._connection._shutdown_socket()
