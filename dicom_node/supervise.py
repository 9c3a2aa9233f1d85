"""Keep the processes of a node running: start, watch, restart, drain."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from dicom_node.core import faults
from dicom_node.memory import family, is_measurable, resident_mib
from dicom_node.telemetry.log import where

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STABLE_AFTER_S = 60.0
_DRAIN_S = 30.0

EXIT_FATAL = 4
"""Exit status of a role that cannot start here and will not be able to: a newer database, another node."""

EXIT_HUNG = 70
"""Exit status of a role that knows no way on but a fresh process (EX_SOFTWARE)."""

_LOOK_EVERY_S = 0.2
"""How fast a process that eats memory is noticed: it can take some hundred MiB more until then."""

_FATAL_AFTER_S = _DRAIN_S + 10
"""A killed supervisor's processes take up to the drain time to leave; until then their locks are held."""


class Role(StrEnum):
    """One process each. They share the data folder and nothing else."""

    RECEIVER = "receiver"
    """Takes associations. Never imports torch."""
    WORKER = "worker"
    """Runs the model."""
    COURIER = "courier"
    """Delivers, confirms, and does what has to happen now and then."""


class Supervisor:
    """Runs one process per role and starts each again when it ends before its time."""

    def __init__(
        self,
        config: Path,
        text: str,
        memory_mib: Mapping[Role, int],
        tell_ended: Callable[[Role, int | None], None] = lambda role, status: None,
    ) -> None:
        """Prepare; `run` starts the processes.

        config  where the configuration came from; relative paths in it start there.
        text    what was read and checked. Every process gets this, also one that is started again after
                the file was edited: a node never runs two configurations, or half of one.
        memory_mib  what each process may hold in memory; one above it is killed, and started again.
        tell_ended  is called with the exit status of each process that ended before its time.
        """
        self._config = config
        self._text = text
        self._memory_mib = memory_mib
        self._tell_ended = tell_ended
        self._last_end: dict[Role, str] = {}
        self._stop = threading.Event()
        self._fatal: int | None = None
        self._ready: set[Role] = set()
        self._was_ready: set[Role] = set()
        self._processes: dict[Role, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Ask all processes to end what is in hand and leave."""
        self._stop.set()

    def reload(self) -> None:
        """Have the processes read files anew that may change while they run: certificates and keys."""
        with self._lock:
            for (
                role
            ) in self._ready:  # one that is still starting would die of the signal, and reads them anyway
                self._processes[role].send_signal(signal.SIGHUP)
        log.info("certificates are read anew", extra={"action": "reload"})

    def run(self) -> int:
        """Run until `stop`, or until a role says that its configuration is wrong; return the exit status."""
        if not is_measurable():
            log.warning("memory limits cannot be kept on this system", extra={"action": "memory-unwatched"})
        keepers = [threading.Thread(target=self._keep, args=(role,), name=role) for role in Role]
        for keeper in keepers:
            keeper.start()
        for keeper in keepers:
            keeper.join()
        return self._fatal or 0

    def _keep(self, role: Role) -> None:
        pause_s = _FIRST_PAUSE_S
        began = time.monotonic()
        while not self._stop.is_set():
            started = time.monotonic()
            status, came_up = None, False
            try:
                status, came_up = self._run_once(role)
            except Exception as error:  # noqa: BLE001
                # No process, thread or memory to be had now. Whatever it is, the role must not stay away.
                log.error(
                    "process not started",
                    extra={
                        "action": "role-not-started",
                        "role": role.value,
                        "code": type(error).__name__,
                        "where": where(error),
                    },
                )
            if self._stop.is_set():
                return
            if status == EXIT_FATAL and started - began > _FATAL_AFTER_S and role not in self._was_ready:
                self._fatal = status
                self._stop.set()
                return
            # One that worked and was killed (by a person, by the kernel) says nothing about the next one.
            killed = came_up and status is not None and status < 0
            if killed or time.monotonic() - started > _STABLE_AFTER_S:
                pause_s = _FIRST_PAUSE_S
            log.error(
                "process ended and is started again",
                extra={"action": "role-restart", "role": role.value, "status": status, "seconds": pause_s},
            )
            try:
                self._tell_ended(role, status)
            except Exception as error:  # noqa: BLE001
                log.error(
                    "end of a process not recorded",
                    extra={"action": "audit-failed", "code": type(error).__name__, "where": where(error)},
                )
            self._stop.wait(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    def _run_once(self, role: Role) -> tuple[int, bool]:
        """Start one process and wait for its end; return its exit status and whether it was ever ready."""
        # -P keeps the working directory off the import path: `model` and `training` are common names.
        command = [sys.executable, "-P", "-m", "dicom_node.cli", "serve", "--supervised"]
        faults.step("supervisor.starting")
        process = subprocess.Popen(
            [*command, "--role", role.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        faults.step("supervisor.started")
        reader = threading.Thread(target=self._listen, args=(role, process), daemon=True)
        reader.start()
        self._hand_over(role, process)
        eaten_mib = self._watch(role, process)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_DRAIN_S + 5)
            except subprocess.TimeoutExpired:
                process.kill()
        status = process.wait()
        reader.join()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._last_end[role] = _ending(status, eaten_mib, self._memory_mib[role])
        with self._lock:
            came_up = role in self._ready
            self._ready.discard(role)
        return status, came_up

    def _watch(self, role: Role, process: subprocess.Popen[str]) -> int | None:
        """Wait for a process to end, or for `stop`; kill it above its memory. What it held then, in MiB."""
        while process.poll() is None and not self._stop.wait(_LOOK_EVERY_S):
            pids = family(process.pid)
            held_mib = resident_mib(pids)
            if held_mib > self._memory_mib[role]:
                log.error(
                    "process killed above its memory limit",
                    extra={
                        "action": "role-too-large",
                        "role": role.value,
                        "pid": process.pid,
                        "mib": held_mib,
                    },
                )
                for pid in pids:  # what it started too: a decoder may be what eats
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return held_mib
        return None

    def _hand_over(self, role: Role, process: subprocess.Popen[str]) -> None:
        """Send the configuration; the pipe stays open, for its end tells the process that we are gone."""
        assert process.stdin is not None
        handed = {
            "source": str(self._config),
            "folder": str(self._config.parent.resolve()),
            "text": self._text,
            "last_end": self._last_end.get(role, ""),
        }
        with suppress(BrokenPipeError):  # it died already; the loop will see that
            process.stdin.write(json.dumps(handed) + "\n")
            process.stdin.flush()

    def _listen(self, role: Role, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                facts = json.loads(line)
            except ValueError:
                continue  # a library that prints; the pipe has to be read on all the same
            log.info(
                "process ready",
                extra={"action": "ready", "role": role.value, "pid": process.pid, **facts},
            )
            with self._lock:
                self._processes[role] = process
                self._ready.add(role)
                self._was_ready.add(role)
                everybody = len(self._ready) == len(Role)
            if everybody:
                log.info("node ready", extra={"action": "node-ready"})


def _ending(status: int, eaten_mib: int | None, allowed_mib: int) -> str:
    """How a process ended, in words that can stand behind what it had in hand."""
    if eaten_mib is not None:
        return (
            f"its process was killed for holding {eaten_mib} MiB of memory, where {allowed_mib} are allowed"
        )
    if status == EXIT_HUNG:
        return "its process ended itself: a step hung, or one job after the other failed"
    if status < 0:
        return f"its process was ended by signal {-status}"
    return f"its process ended with status {status}"


def stop_on_signal(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and SIGINT."""

    def handle(number: int, frame: Any) -> None:
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def on_hangup(reload: Callable[[], None]) -> None:
    """Call `reload` in a thread of its own on SIGHUP."""

    def handle(number: int, frame: Any) -> None:
        threading.Thread(target=reload, name="reload", daemon=True).start()

    signal.signal(signal.SIGHUP, handle)


def end_with_parent(stop: threading.Event) -> None:
    """In a supervised process: leave when the supervisor is gone, however it went.

    It holds the other end of our standard input, which the kernel closes even after kill -9.
    """

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        stop.set()
        time.sleep(_DRAIN_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def receive_configuration() -> tuple[str, Path, str, str]:
    """In a supervised process: what the supervisor handed over.

    Source, folder and text of the configuration, and how the process before this one ended, in words.
    """
    line = sys.stdin.readline()
    if not line:
        sys.exit(1)  # the supervisor was gone before it could hand anything over
    handed = json.loads(line)
    return handed["source"], Path(handed["folder"]), handed["text"], handed["last_end"]


def report_ready(**facts: Any) -> None:
    """In a supervised process: tell the supervisor that work can begin."""
    with suppress(BrokenPipeError):  # it is gone; the end of our input says so too
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
