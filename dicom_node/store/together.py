"""Group commit: threads that want to write at the same moment share one transaction, and its sync."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from dicom_node.core.errors import StoreBusy
from dicom_node.store.database import Database
from dicom_node.store.process import Turn

_T = TypeVar("_T")

_TURN_S = 5.0
"""For our turn; the database itself is waited for after that, as long as `Database.write` does."""

_MOST = 32
"""Writes in one transaction, so that other processes get their turn."""


class _Write:
    """One thread's share, and what became of it."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.done = False
        self.outcome: Any = None
        self.error: BaseException | None = None


class Together:
    """Runs the write transactions of several threads, several at a time.

    There is no thread of its own: whoever finds nobody writing does it for all that wait, so a lone writer
    pays no hand-over. Nobody hears of success before the commit. If one share fails, the transaction is
    undone and each is written by itself: none takes another along. So a share may run twice.
    """

    def __init__(self, database: Database, among: Turn | None = None) -> None:
        """Nobody waits. among: the processes that write so, too; None if there is only this one."""
        self._database = database
        self._among = among
        self._waiting: deque[_Write] = deque()
        self._turn = threading.Lock()

    def write(self, work: Callable[[Connection], _T]) -> _T:
        """Run `work` in a write transaction and return its result once that is committed.

        Raises what `work` raises, its own changes undone; StoreBusy as `Database.write` does.
        """
        mine = _Write(work)
        self._waiting.append(mine)
        with self._turn:
            while not mine.done:  # once, unless very many wait
                self._write_in_turn()
        if mine.error is not None:
            raise mine.error
        outcome: _T = mine.outcome
        return outcome

    def _write_in_turn(self) -> None:
        if self._among is None:
            self._write_some()
            return
        with self._among.taken(_TURN_S):
            self._write_some()

    def _write_some(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
        try:
            self._write_in_one(batch)
        except Exception as error:  # noqa: BLE001 - it is raised in the thread that it belongs to
            # Where the database is locked or full, asking again for each would only take so much longer.
            if len(batch) == 1 or isinstance(error, StoreBusy):
                for one in batch:
                    one.error = error
            else:
                for one in batch:
                    self._write_alone(one)
        finally:
            for one in batch:
                one.done = True

    def _write_in_one(self, batch: Sequence[_Write]) -> None:
        with self._database.write_again() as conn:
            for one in batch:
                one.outcome = one.work(conn)

    def _write_alone(self, one: _Write) -> None:
        try:
            self._write_in_one([one])
        except Exception as error:  # noqa: BLE001 - as above
            one.error = error
