"""Archives that misbehave: real servers on loopback, each with one bad habit."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

Answer = int | Dataset
"""A status, or a status with Error Comment and Offending Element."""


class Liar:
    """An archive that stores and lists honestly, except for what a test takes from it.

    store  called with the number of the C-STORE (from 1) and its data set; its answer is given, and the
           instance is kept if that is 0000 or a warning. It may `abort` instead, or `hang`.
    """

    aet = "PACS"

    def __init__(
        self,
        store: Callable[[int, Dataset], Answer] = lambda number, ds: 0x0000,
        *,
        keeps: bool = True,
        find: str = "honest",
        contexts: Sequence[Any] = (SecondaryCaptureImageStorage,),
        abort_in_data: int | None = None,
        most: int = 10,
        port: int = 0,
    ) -> None:
        """Start at once.

        keeps          False: forgets what it answered success to.
        find           honest, nothing (an empty list), fails (C001), never (no answer), abort.
        abort_in_data  abort at the first byte of the data set of the C-STORE with this number.
        most           associations that it takes at a time; it rejects others.
        """
        self._store, self._keeps, self._find = store, keeps, find
        self._abort_in_data = abort_in_data
        self.asked: list[str] = []
        """SOP Instance UIDs as C-STOREs were answered, or not answered, in order."""
        self.kept: dict[str, bytes] = {}
        """First content under each UID: an archive that never overwrites."""
        self.associations = 0
        self.releases = 0
        self.questions = 0
        self.released = threading.Event()
        """Ends every `hang`."""
        self._commands = 0
        ae = AE(self.aet)
        ae.network_timeout = 60
        ae.maximum_associations = most
        for context in (*contexts, StudyRootQueryRetrieveInformationModelFind, Verification):
            ae.add_supported_context(context)
        handlers = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_ECHO, lambda event: 0x0000),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_DATA_RECV, self._on_data),
        ]
        self._server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])
        self._current: Any = None

    def hang(self) -> int:
        """No answer until the test lets go."""
        self.released.wait(60)
        return 0xA700

    def abort(self) -> int:
        """End the association instead of answering."""
        self._current.abort()
        return 0x0000

    def stop(self) -> None:
        """End the server and every association."""
        self.released.set()
        for association in self._server.active_associations:
            with suppress(Exception):
                # One that is not established yet cannot be aborted: pynetdicom's thread would die of it.
                association.abort() if association.is_established else association.kill()
        self._server.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _on_accepted(self, event: evt.Event) -> None:
        self.associations += 1

    def _on_released(self, event: evt.Event) -> None:
        self.releases += 1

    @property
    def open_associations(self) -> int:
        """Associations that somebody has with it now."""
        return len(self._server.active_associations)

    def hang_up(self, *, release: bool = False) -> None:
        """End every association, by abort or in order."""
        for association in self._server.active_associations:
            association.release() if release else association.abort()

    def _on_data(self, event: evt.Event) -> None:
        # P-DATA-TF with a fragment of a data set (PS3.8 9.3.5, E.2): the header's lowest bit is 0.
        if self._abort_in_data is None or event.data[0] != 0x04 or event.data[11] & 1:
            return
        if len(self.asked) + 1 == self._abort_in_data:
            self._abort_in_data = None
            event.assoc.abort()

    def _on_store(self, event: evt.Event) -> Answer:
        self._current = event.assoc
        uid = str(event.request.AffectedSOPInstanceUID)
        self.asked.append(uid)
        answer = self._store(len(self.asked), event.dataset)
        status = answer if isinstance(answer, int) else int(answer.Status)
        if self._keeps and event.assoc.is_established and (status == 0 or status & 0xF000 == 0xB000):
            self.kept.setdefault(uid, event.request.DataSet.getvalue())
        return answer

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.questions += 1
        if self._find == "never":
            self.hang()
        if self._find == "abort":
            event.assoc.abort()
        if self._find == "fails":
            yield 0xC001, None
        if self._find != "honest":
            return
        for uid in self.kept:
            match = Dataset()
            match.QueryRetrieveLevel = "IMAGE"
            match.SOPInstanceUID = uid
            yield 0xFF00, match


def answer(status: int, comment: str = "", *offending: int) -> Dataset:
    """A status with the peer's own words (PS3.7 C.4)."""
    said = Dataset()
    said.Status = status
    if comment:
        said.ErrorComment = comment
    if offending:
        said.OffendingElement = list(offending)
    return said


def slow(seconds: float) -> Callable[[int, Dataset], int]:
    """Takes this long for each answer."""

    def store(number: int, ds: Dataset) -> int:
        time.sleep(seconds)
        return 0x0000

    return store


def first(count: int, status: Answer) -> Callable[[int, Dataset], Answer]:
    """Gives this answer so many times, then takes everything."""
    return lambda number, ds: status if number <= count else 0x0000


class DeadPort:
    """Takes TCP connections and never gives an association: says nothing at all, or hangs up at once."""

    def __init__(self, *, hangs_up: bool = False, port: int = 0) -> None:
        """Start at once."""
        self.connections = 0
        self._hangs_up = hangs_up
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                if self._hangs_up:
                    connection.recv(65536)
                    connection.close()
                else:
                    self._open.append(connection)

    def stop(self) -> None:
        """Close everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._open:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
