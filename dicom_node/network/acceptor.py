"""Associations that others open to us: pynetdicom's, with bounds on what a peer can make them cost.

What is different here, and when it can go, is in the docstrings; `tests/test_network_door.py` shows for
each that pynetdicom 3.0.4 needs it.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import pynetdicom
from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.network.server import Arrived
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)

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
            aborted = A_P_ABORT()
            aborted.provider_reason = 0x00
            self.to_user_queue.put(aborted)
        finally:
            self._kill_thread = True
            # Nothing more will come: whoever waits for a request or a message must not wait on.
            self.to_user_queue.put(cast(Any, None))
            self.assoc.dimse.msg_queue.put((None, None))


class Acceptance(Association):  # type: ignore[misc]
    """An association that a peer opened; when it ends, nothing of it is left."""

    def __init__(
        self,
        ae: pynetdicom.AE,
        contexts: Sequence[PresentationContext],
        handlers: Sequence[tuple[Any, ...]],
        arrived: Arrived,
    ) -> None:
        """Prepare; `start` runs it. The connection's A-ASSOCIATE-RQ has been read already."""
        super().__init__(ae, MODE_ACCEPTOR)
        self.name = f"AcceptorThread@{arrived.address[0]}:{arrived.address[1]}"
        self.dul = UpperLayer(self)
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
        if self._open:
            # Ended in a way that pynetdicom has no event for; who counts associations needs one.
            evt.trigger(self, evt.EVT_ABORTED, {})
        self._connection._shutdown_socket()
