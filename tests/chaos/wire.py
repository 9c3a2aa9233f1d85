"""A line between two peers that can be cut in the middle of whatever crosses it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Literal

Direction = Literal["there", "back"]


class Wire:
    """Forwards TCP from a free loopback port to another; `cut_after` ends a connection at a chosen byte."""

    def __init__(self, target_port: int) -> None:
        """Listen at once; who connects is connected on to `target_port`."""
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._budget: dict[Direction, tuple[int, threading.Event]] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count: int, direction: Direction) -> threading.Event:
        """Let `count` more bytes pass in a direction, then end the connection that carried the last.

        there  from who called towards the target; back  from the target.
        The event is set when that has happened.
        """
        done = threading.Event()
        with self._lock:
            self._budget[direction] = (count, done)
        return done

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                target = socket.create_connection(self._target, 5)
            except OSError:
                caller.close()  # as seen from the caller: the peer is not there
                continue
            target.settimeout(None)
            for one in (caller, target):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ends = threading.Semaphore(0)
            for source, sink, direction in ((caller, target, "there"), (target, caller, "back")):
                arguments = (source, sink, direction, ends)
                threading.Thread(target=self._pump, args=arguments, daemon=True).start()
            threading.Thread(target=_close_after, args=(caller, target, ends), daemon=True).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, direction: Direction, ends: threading.Semaphore
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                data, cut = self._allowed(data, direction)
                sink.sendall(data)
                if cut is not None:
                    cut.set()
                    break
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        ends.release()

    def _allowed(self, data: bytes, direction: Direction) -> tuple[bytes, threading.Event | None]:
        with self._lock:
            if direction not in self._budget:
                return data, None
            left, done = self._budget[direction]
            if len(data) < left:
                self._budget[direction] = (left - len(data), done)
                return data, None
            del self._budget[direction]
            return data[:left], done


def _close_after(caller: socket.socket, target: socket.socket, ends: threading.Semaphore) -> None:
    for _ in range(2):
        ends.acquire()
    caller.close()
    target.close()
