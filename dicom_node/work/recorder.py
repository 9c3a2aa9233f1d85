"""Good ends written down beside the work: many in one transaction, while the next object is on its way.

What an archive has answered is then in memory only, for a moment. A kill in that moment sends those objects
again, under the same UIDs, which adds nothing anywhere; so the moment is bounded, in number and in time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from dicom_node.work.outcome import Outcome

GATHERED_AT_MOST = 16
"""Outcomes in one transaction; as many more may wait while they are written."""

GATHERED_FOR_S = 0.05
"""Seconds that the first of them waits for others."""


class Recorder:
    """Writes outcomes from a thread of its own; used by one other thread."""

    def __init__(self, write: Callable[[Sequence[Outcome]], None]) -> None:
        """Write with `write`, which returns once they are committed. The thread begins with the first."""
        self._write = write
        self._changed = threading.Condition()
        self._waiting: list[Outcome] = []
        self._since = 0.0
        self._writing = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def take(self, outcome: Outcome) -> None:
        """Have it written soon; waits while too many are not.

        Raises what `write` raised of earlier ones; those that it did not write are dropped.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
            self._thread.start()
        with self._changed:
            while len(self._waiting) >= GATHERED_AT_MOST and self._error is None:
                self._changed.wait()
            self._raise()
            self._waiting.append(outcome)
            if len(self._waiting) == 1:
                self._since = time.monotonic()
            if len(self._waiting) in (1, GATHERED_AT_MOST):
                self._changed.notify_all()

    def flush(self) -> None:
        """Return once everything is written; raises as `take`."""
        with self._changed:
            while self._writing:
                self._changed.wait()
            self._raise()
            some, self._waiting = self._waiting, []
        if some:
            self._write(some)

    def close(self) -> None:
        """End the thread; what waits is dropped, so flush before."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._waiting = []
            raise error

    def _run(self) -> None:
        while (some := self._gathered()) is not None:
            error: BaseException | None = None
            try:
                self._write(some)
            except BaseException as raised:  # noqa: BLE001 - it is raised in the thread that works
                error = raised
            with self._changed:
                self._writing = False
                self._error = error
                self._changed.notify_all()

    def _gathered(self) -> list[Outcome] | None:
        """Wait for enough of them, or long enough; None at the end."""
        with self._changed:
            while not self._closed:
                left_s = self._since + GATHERED_FOR_S - time.monotonic()
                if len(self._waiting) >= GATHERED_AT_MOST or (self._waiting and left_s <= 0):
                    some, self._waiting = self._waiting, []
                    self._writing = True
                    self._changed.notify_all()
                    return some
                self._changed.wait(left_s if self._waiting else None)
        return None
