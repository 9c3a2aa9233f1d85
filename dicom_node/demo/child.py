"""Programs that the demo starts beside itself: ready when they answer, gone when the demo is."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dicom_node.core.errors import NodeError

_GUARD = 'read -r _; kill -9 "$1" 2>/dev/null'
"""Waits for the end of its standard input, which only we hold open, then ends the program."""


class ProgramNotStarted(NodeError):
    """A program that is needed beside the node did not start."""


class Child:
    """One running program that never outlives us, not even when we are killed with -9."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `command`; what it prints is added to `log`, `environment` to our own."""
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal reaches us, and we end it in our order.
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Process number, for tests that end the program roughly."""
        return self._process.pid

    def is_running(self) -> bool:
        """Has the program not ended yet?"""
        return self._process.poll() is None

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Return when `is_ready`; if the program ends first or takes too long, end it and raise.

        Raises ProgramNotStarted with the last lines that the program printed.
        """
        limit = time.monotonic() + timeout_s
        while not is_ready():
            ended = not self.is_running()
            if ended or time.monotonic() > limit:
                self.kill()
                why = "ended at once" if ended else f"gave no sign in {timeout_s:.0f} s"
                raise ProgramNotStarted(f"{self.name} {why}; it printed:\n{self.printed()}")
            time.sleep(0.03)

    def printed(self, lines: int = 20) -> str:
        """The last lines the program printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask the program to end, make it end after `timeout_s`, and leave no process behind."""
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the program as a power cut would (kill -9)."""
        self._process.kill()
        self._reap()

    def _reap(self) -> None:
        self._process.wait()
        self._guard.kill()
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago; another process may still be faster."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def is_listening(port: int) -> bool:
    """Does something take connections on this port of 127.0.0.1?"""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False
