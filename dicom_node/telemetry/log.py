"""The log: one line per event, fields not prose. The only place that decides what may be written."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from datetime import UTC, datetime
from typing import Any

FIELDS = (
    "action",
    "role",
    "number",
    "pid",
    "port",
    "tls_port",
    "peer",
    "address",
    "called",
    "route",
    "study",
    "instance",
    "job",
    "kind",
    "lane",
    "attempt",
    "code",
    "where",
    "status",
    "transaction",
    "decision",
    "count",
    "seconds",
    "bundle",
    "device",
    "path",
    "next_try",
    "use",
    "ends",
    "days",
    "fingerprint",
    "problem",
    "mib",
    "version",
    "head",
)
"""Every field a log line may carry. None of them can hold a name, a patient ID or a description."""

_ENCODE = json.JSONEncoder(default=str).encode

_OURS = ("dicom_node", "model", "training")

SILENCED = ("pydicom", "pynetdicom", "highdicom", "apscheduler", "PIL")
"""Libraries whose own messages never reach our log."""


class _Line(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO job finished action=job-done job=812`."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = " ".join(f"{k}={_plain(v)}" for k, v in _fields(record).items())
        return f"{at.replace('+00:00', 'Z')} {record.levelname} {record.getMessage()} {fields}".rstrip()


class _Json(logging.Formatter):
    """The same as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), **_fields(record)}
        return _ENCODE(line)


def where(error: BaseException) -> str:
    """The last place in our code that an error came through, for a log that may not quote the error."""
    place = "outside our code"
    trace = error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.split(".")[0] in _OURS:
            place = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def set_up_logging(level: str, style: str) -> None:
    """Send our log to standard error and silence the libraries.

    pydicom and pynetdicom quote attribute values in their messages and warnings, and a traceback may
    quote anything: none of that may reach a log. What went wrong is reported by our own events.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Line())
    ours = logging.getLogger("dicom_node")
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(level.upper())
    # No line says where in the code, or in which thread, it was written: Python need not find out.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for library in SILENCED:
        theirs = logging.getLogger(library)
        theirs.handlers = [logging.NullHandler()]
        theirs.propagate = False
        theirs.setLevel(logging.CRITICAL)
    # Whoever is not named above has no way out either: Python would print to standard error what finds no
    # handler, and some libraries quote what a peer sent.
    logging.getLogger().handlers = [logging.NullHandler()]
    logging.lastResort = None
    warnings.simplefilter("ignore")
    threading.excepthook = lambda args: _report_death(args.exc_value)
    sys.excepthook = lambda kind, error, trace: _report_death(error)


def _report_death(error: BaseException | None) -> None:
    """Instead of a traceback, which may quote attribute values."""
    if error is not None:
        logging.getLogger("dicom_node").error(
            "unforeseen error",
            extra={"action": "unforeseen", "code": type(error).__name__, "where": where(error)},
        )


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name in FIELDS if (value := record.__dict__.get(name)) is not None}


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return json.dumps(text) if " " in text or '"' in text or "\n" in text or not text else text
