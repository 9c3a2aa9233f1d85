"""Fault points: named moments at which a test may end, stop or starve a process. In service they do nothing.

`docs/reliability.md` says for each what is on disk then, and what the next start makes of it.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from pathlib import Path

FLAG = "EMODE_FAULTS"
"""Environment variable, read once: the folder where a test leaves its orders. Unset in service."""

STEPS: tuple[tuple[str, str], ...] = (
    ("receive.spooled", "an object has arrived whole in incoming/; nothing of it is durable"),
    ("receive.synced", "its content is durable; its name is not final"),
    ("receive.placed", "it has its final name; no row knows it"),
    ("receive.recorded", "image, study and job are written in a transaction that is still open"),
    ("receive.committed", "that transaction is committed; the sender has no answer"),
    ("receive.answered", "0000 is on its way to the sender"),
    ("infer.claimed", "images are leased to the worker; none is read"),
    ("infer.read", "the pixels of an image are decoded and judged"),
    ("infer.predicted", "the model has answered; nothing of it is on disk"),
    ("infer.written", "a result is written in incoming/; it is not durable"),
    ("infer.synced", "its content is durable; its name is not final"),
    ("infer.placed", "it has its final name; no row knows it"),
    ("infer.recorded", "results, deliveries and the end of the job are written, not committed"),
    ("infer.committed", "they are committed; the courier has not been told"),
    ("deliver.claimed", "results are leased to a destination's lane; no association is open"),
    ("deliver.associated", "the association is open; nothing is sent"),
    ("deliver.sent", "the archive has answered; nothing of that is written down"),
    ("deliver.recorded", "its answer and the question to come are written, not committed"),
    ("deliver.committed", "they are committed"),
    ("confirm.claimed", "deliveries are leased for the question; nothing is asked"),
    ("confirm.answered", "the archive has said what it lists; nothing of that is written down"),
    ("commit.intended", "a question for storage commitment is on record; the archive has not heard of it"),
    ("commit.asked", "the archive has taken the question; that is not on record"),
    ("report.received", "the archive's report is here; nothing of it is written down"),
    ("report.recorded", "it is written, not committed"),
    ("report.committed", "it is committed; the archive has no answer to it"),
    ("confirm.recorded", "its answer is written, not committed"),
    ("confirm.committed", "it is committed"),
    ("settle.changed", "studies are settled and their deliveries released, not committed"),
    ("settle.committed", "that is committed; the courier's lanes have not been told"),
    ("takeback.changed", "jobs of a dead holder wait again, not committed"),
    ("purge.changed", "a study's rows say that its files are gone, not committed; the files are there"),
    ("purge.committed", "that is committed; the files are still there, and no row needs them"),
    ("sweep.unlinked", "a file that no row needs is gone; the sweep goes on"),
    ("role.locked", "a starting process holds its role's lock; the database is not open"),
    ("role.opened", "it has opened the database; it serves nothing"),
    ("migrate.applied", "the schema is brought up to date, not committed"),
    ("supervisor.starting", "the supervisor is about to start a process"),
    ("supervisor.started", "the process runs; it has just begun"),
)
"""(name, what is true at that moment), in the order of an image's way."""

_FOLDER = os.environ.get(FLAG)
_lock = threading.Lock()
_passes: dict[tuple[str, int], int] = {}


def is_armed() -> bool:
    """Was this process started under the test flag?"""
    return _FOLDER is not None


def step(name: str) -> None:
    """Say that a named moment is reached; under the test flag, do what the test ordered for it."""
    if _FOLDER is not None:
        _obey(Path(_FOLDER), name)


def _obey(folder: Path, name: str) -> None:
    """An order is a file with the step's name: `kill|full|pause WHEN [SECONDS]`.

    WHEN is the number of the pass (3: the third since this process first saw the order), or below 1 the
    probability at each pass. Whoever obeys renames the order first, so that it is obeyed once.
    """
    order = folder / name
    try:
        action, when, *seconds = order.read_text().split()
        number = order.stat().st_mtime_ns
    except FileNotFoundError:
        return
    if not _is_due(name, number, float(when)):
        return
    try:
        order.rename(folder / f"obeyed-{name}")
    except FileNotFoundError:
        return  # another thread or process was first
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "pause":
        time.sleep(float(seconds[0]))


def _is_due(name: str, number: int, when: float) -> bool:
    if when < 1:
        return random.random() < when
    with _lock:
        _passes[name, number] = _passes.get((name, number), 0) + 1
        return _passes[name, number] >= when
