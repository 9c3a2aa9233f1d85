"""Everything we ask of pynetdicom beyond its public calls, in one place, guarded by a version check."""

from __future__ import annotations

import socket

import pynetdicom
from pynetdicom import evt

TESTED_WITH = ("3.0",)
"""Minor versions whose inside these settings were checked against."""


def is_tested_version() -> bool:
    """Is the installed pynetdicom one that this module was checked against?"""
    return str(pynetdicom.__version__).startswith(TESTED_WITH)


def prepare_socket(connected: socket.socket, seconds: float) -> None:
    """No waiting for more bytes before sending (TCP_NODELAY), and no read or write for longer than `seconds`.

    Nagle's algorithm and delayed acknowledgements add 40 ms to every image. Without a time limit a peer that
    stops in the middle of a PDU would hold its thread, and the slot of its association, for ever.
    """
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.settimeout(seconds)


def send_at_once(event: evt.Event) -> None:
    """Handler for EVT_CONN_OPEN: TCP_NODELAY, as in `prepare_socket`."""
    holder = event.assoc.dul.socket
    if holder is not None and holder.socket is not None:
        holder.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
