"""Everything we ask of pynetdicom beyond its public calls, in one place, guarded by a version check."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace

import pynetdicom
from pynetdicom import _config, evt, timer
from pynetdicom.association import Association

from dicom_node.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

TESTED_WITH = ("3.0",)
"""Minor versions whose inside these settings were checked against."""


def is_tested_version() -> bool:
    """Is the installed pynetdicom one that this module was checked against?"""
    return str(pynetdicom.__version__).startswith(TESTED_WITH)


def send_from_files() -> None:
    """Make C-STORE requests stream a file's data set as it is, without reading it into memory."""
    _config.STORE_SEND_CHUNKED_DATASET = True


def application_entity(title: str) -> pynetdicom.AE:
    """An AE that names this implementation."""
    # Its timers read the wall clock: a clock set forward would end every association, one set back none.
    timer.time = SimpleNamespace(time=time.monotonic)
    # It would format every message for a log that is silenced.
    _config.LOG_HANDLER_LEVEL = "none"
    ae = pynetdicom.AE(ae_title=title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return ae


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
    connected = transport_of(event.assoc)
    if connected is not None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def limit_silence(event: evt.Event, seconds: float) -> None:
    """Handler for EVT_CONN_OPEN: `prepare_socket`, for which pynetdicom has no setting."""
    connected = transport_of(event.assoc)
    if connected is not None:
        prepare_socket(connected, seconds)


def transport_of(association: Association) -> socket.socket | None:
    """The socket under an association; over TLS an `ssl.SSLSocket`."""
    holder = association.dul.socket
    return holder.socket if holder is not None else None


def close_socket(association: Association) -> None:
    """Close the socket of an association that never came to be.

    A destination that is away for a night must not cost a file descriptor for each try. (Where the
    connection itself was refused, pynetdicom 3.0.4 has dropped the socket already, and Python closes it.)
    """
    holder = association.dul.socket
    if holder is not None and holder.socket is not None:
        holder.socket.close()


def is_answer_to_report(event: evt.Event) -> bool:
    """For EVT_DIMSE_SENT: is this our answer to an N-EVENT-REPORT? Before it is out, nobody may hang up."""
    return type(event.message).__name__ == "N_EVENT_REPORT_RSP"
