"""A race inside pynetdicom 3.0.4 that loses answers on a busy machine, and its cure."""

from __future__ import annotations

import threading
import time
from typing import Any

_RAISE_FLAG_EVERY_S = 0.02


class Checkpoint:
    """What pauses an association's reactor: `clear` returns only when the reactor stands still.

    It takes the place of pynetdicom's plain event. There, `send_c_*` clears the event, looks at a
    flag that the reactor raises just before it waits, and takes that for a pause. A reactor that
    was already past the wait runs once more, takes the answer off the queue and drops it
    ("Received unexpected C-FIND service message"): a C-STORE then times out, and a C-FIND silently
    misses a match.
    """

    def __init__(self, association: Any) -> None:
        """Open: the reactor runs."""
        self._association = association
        self._changed = threading.Condition()
        self._open = True
        self._waiting = 0

    def is_set(self) -> bool:
        """May the reactor run?"""
        return self._open

    def set(self) -> None:
        """Let the reactor run."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait(self) -> bool:
        """Called by the reactor: stand still until it may run."""
        with self._changed:
            while not self._open:
                self._waiting += 1
                # pynetdicom serves an N-EVENT-REPORT in a thread of its own, which takes this flag down when
                # it ends; whoever waits for the flag, as `release` does, would then wait for ever.
                self._association._is_paused = True
                self._changed.wait(_RAISE_FLAG_EVERY_S)
                self._waiting -= 1
        return True

    def clear(self) -> None:
        """Called by a sender: stop the reactor, and return when it has stopped or ended."""
        with self._changed:
            self._open = False
        while not self._waiting and self._association.is_alive() and self._association.is_established:
            time.sleep(0.0002)


def steady_reactor(event: Any) -> None:
    """Handler for EVT_CONN_OPEN: cure the association before its first request."""
    event.assoc._reactor_checkpoint = Checkpoint(event.assoc)
