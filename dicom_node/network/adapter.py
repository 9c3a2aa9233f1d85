"""Everything we ask of pynetdicom beyond its public calls, in one place, guarded by a version check."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from types import SimpleNamespace

import pynetdicom
from pynetdicom import _config, evt, timer
from pynetdicom.association import Association
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class

from dicom_node.core.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

TESTED_WITH = ("3.0",)
"""Minor versions whose inside these settings were checked against."""


def is_tested_version() -> bool:
    """Is the installed pynetdicom one that this module was checked against?"""
    return str(pynetdicom.__version__).startswith(TESTED_WITH)


def serve_storage_of(sop_classes: Mapping[str, str]) -> None:
    """Let the C-STORE receiver take these SOP classes, given as UID -> name.

    pynetdicom does not know the retired ones: it would accept the context and abort at the first object.
    """
    for uid, name in sop_classes.items():
        if uid_to_service_class(uid) is not StorageServiceClass:
            register_uid(uid, "".join(filter(str.isalnum, name)), StorageServiceClass)


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


def send_at_once(event: evt.Event) -> None:
    """Handler for EVT_CONN_OPEN: no waiting for more bytes before sending (TCP_NODELAY).

    Otherwise Nagle's algorithm and delayed acknowledgements add 40 ms to every image.
    """
    holder = event.assoc.dul.socket
    if holder is not None and holder.socket is not None:
        holder.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def limit_silence(event: evt.Event, seconds: float) -> None:
    """Handler for EVT_CONN_OPEN: no read or write on this connection takes longer than `seconds`.

    pynetdicom leaves accepted and connected sockets without a time limit: a peer that stops in the
    middle of a PDU would hold its thread, and the slot of its association, for ever.
    """
    holder = event.assoc.dul.socket
    if holder is not None and holder.socket is not None:
        holder.socket.settimeout(seconds)
        holder.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


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
