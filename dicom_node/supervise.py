"""Keep the processes of a node running: start, watch, restart, drain."""

from __future__ import annotations

import gc
import json
import logging
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from dicom_node.core import faults
from dicom_node.memory import Family, is_measurable, newest_process
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

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LONGEST_LINE = 1 << 16


class Role(StrEnum):
    """What a process does. Processes share the data folder and nothing else, but see `Estate`."""

    RECEIVER = "receiver"
    """Takes associations. Never imports torch."""
    WORKER = "worker"
    """Runs the model."""
    COURIER = "courier"
    """Delivers, confirms, and does what has to happen now and then."""


@dataclass(frozen=True, slots=True)
class Post:
    """One process of a node: what it does, and which of those that do the same (from 1)."""

    role: Role
    number: int = 1

    @property
    def name(self) -> str:
        """As its lock and `emode status` have it: receiver, receiver-2."""
        return self.role.value if self.number == 1 else f"{self.role.value}-{self.number}"

    @property
    def fields(self) -> dict[str, Any]:
        """For a log line."""
        return {"role": self.role.value, "number": self.number if self.number > 1 else None}


class Estate(Protocol):
    """What the supervisor holds for its processes, so that one can end while the others go on."""

    def prepare(self, post: Post) -> Collection[int]:
        """Before this process starts; return the descriptors that it takes along.

        Whatever this raises puts the start off.
        """

    def ended(self, post: Post, *, last: bool) -> None:
        """This process has ended; was it the last one of its role?"""

    def close(self) -> None:
        """The node is to stop."""


class NoEstate:
    """Nothing is held."""

    def prepare(self, post: Post) -> Collection[int]:
        """Nothing to prepare."""
        return ()

    def ended(self, post: Post, *, last: bool) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


@dataclass(slots=True, eq=False)
class _Watched:
    """A post, and the process that holds it now."""

    post: Post
    memory_mib: int
    due_at: float
    """When to start a process, if there is none (monotonic)."""
    pause_s: float = _FIRST_PAUSE_S
    last_end: str = ""
    was_ready: bool = False
    """Has any process of this post ever been ready?"""
    process: BaseProcess | None = None
    family: Family = field(default_factory=lambda: Family(0))
    started_at: float = 0.0
    lifeline: int = -1
    """Its input; it ends with us, whatever ends us."""
    report: int = -1
    """Its output: one line when it is ready."""
    said: bytes = b""
    is_ready: bool = False
    eaten_mib: int | None = None
    kill_at: float | None = None


class Supervisor:
    """Runs one process for each post and starts each again when it ends before its time.

    It has one thread and forks, so whatever it has loaded is there for its processes at once, and only once
    in memory. What a process opens (database, sockets, threads) it opens by itself after the fork; of what
    the supervisor has open it keeps what its estate gives it, and nothing else.
    """

    def __init__(
        self,
        memory_mib: Mapping[Post, int],
        be: Callable[[Post, str], None],
        estate: Estate | None = None,
        tell_ended: Callable[[Post, int | None], None] = lambda post, status: None,
    ) -> None:
        """Prepare; `run` starts the processes.

        memory_mib  the posts, and what the process of each may hold in memory; one above it is killed, and
                    started again.
        be          run in the new process: do the post's work until the end, told how the process before
                    it ended, in words. Raises SystemExit with the exit status.
        estate      what the processes share.
        tell_ended  is called with the exit status of each process that ended before its time.
        """
        now = time.monotonic()
        self._watched = [_Watched(post, mib, due_at=now) for post, mib in memory_mib.items()]
        self._be = be
        self._estate = estate or NoEstate()
        self._tell_ended = tell_ended
        self._began = now
        self._look_at = now
        self._stop = False
        self._stopping = False
        self._reload = False
        self._fatal: int | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def stop(self) -> None:
        """Ask all processes to end what is in hand and leave. May be called by a signal's handler."""
        self._stop = True
        self._wake()

    def reload(self) -> None:
        """Have the processes read files anew that may change while they run: certificates and keys.

        May be called by a signal's handler.
        """
        self._reload = True
        self._wake()

    def heed_signals(self) -> None:
        """Stop on SIGTERM and SIGINT, reload on SIGHUP."""
        stop_on_signal(self.stop)
        signal.signal(signal.SIGHUP, lambda number, frame: self.reload())

    def run(self) -> int:
        """Run until `stop`, or until a role says that its configuration is wrong; return the exit status."""
        if not is_measurable():
            log.warning("memory limits cannot be kept on this system", extra={"action": "memory-unwatched"})
        # What is there now is there for good: the collector would touch, and so copy, it in each process.
        gc.collect()
        gc.freeze()
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._drain_wakes)
        while not (self._stopping and not any(each.process for each in self._watched)):
            self._turn()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        return self._fatal or 0

    # -- one turn of the loop -----------------------------------------------------------------

    def _turn(self) -> None:
        if self._stop and not self._stopping:
            self._begin_to_stop()
        if self._reload:
            self._reload = False
            self._pass_on_reload()
        now = time.monotonic()
        for each in self._watched:
            if each.process is None and each.due_at <= now and not self._stopping:
                self._start(each)
        if now >= self._look_at:
            self._look(now)
        for key, _ in self._selector.select(max(0.0, self._look_at - time.monotonic())):
            try:
                key.data()
            except Exception as error:  # noqa: BLE001 - one process's trouble is nobody else's
                log.critical(
                    "unforeseen error",
                    extra={"action": "unforeseen", "code": type(error).__name__, "where": where(error)},
                )

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it is full of wakes already
            os.write(self._wake_write, b"!")

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _look(self, now: float) -> None:
        """What has to be looked at by the clock: memory, and who does not leave."""
        self._look_at = now + _LOOK_EVERY_S
        newest = newest_process()
        for each in self._watched:
            if each.process is None:
                continue
            if each.kill_at is not None and now >= each.kill_at:
                each.process.kill()
            elif not self._stopping and each.eaten_mib is None:
                self._look_at_memory(each, newest)

    def _look_at_memory(self, each: _Watched, newest: str | None) -> None:
        held_mib = each.family.resident_mib(newest)
        if held_mib <= each.memory_mib:
            return
        log.error(
            "process killed above its memory limit",
            extra={"action": "role-too-large", **each.post.fields, "pid": each.family.pid, "mib": held_mib},
        )
        each.eaten_mib = held_mib
        each.family.kill()  # what it started too: a decoder may be what eats

    def _begin_to_stop(self) -> None:
        self._stopping = True
        self._estate.close()
        deadline = time.monotonic() + _DRAIN_S + 5
        for each in self._watched:
            if each.process is not None:
                each.kill_at = deadline
                each.process.terminate()

    def _pass_on_reload(self) -> None:
        for each in self._watched:
            # One that is still starting reads them anyway.
            if each.process is not None and each.is_ready:
                with suppress(ProcessLookupError):
                    os.kill(each.family.pid, signal.SIGHUP)
        log.info("certificates are read anew", extra={"action": "reload"})

    # -- one process ----------------------------------------------------------------------------

    def _start(self, each: _Watched) -> None:
        each.started_at = time.monotonic()
        each.is_ready, each.eaten_mib, each.kill_at, each.said = False, None, None, b""
        try:
            self._fork(each)
        except Exception as error:  # noqa: BLE001
            # No port, process or memory to be had now. Whatever it is, the role must not stay away.
            log.error(
                "process not started",
                extra={
                    "action": "role-not-started",
                    **each.post.fields,
                    "code": getattr(error, "code", type(error).__name__),
                    "where": where(error),
                },
            )
            self._put_off(each, None, killed=False)

    def _fork(self, each: _Watched) -> None:
        keeps = self._estate.prepare(each.post)
        faults.step("supervisor.starting")
        ours = _open_descriptors() - {0, 1, 2} - set(keeps)
        lifeline, each.lifeline = os.pipe()
        each.report, report = os.pipe()
        os.set_blocking(each.report, False)
        process = get_context("fork").Process(
            target=self._begin, args=(each, lifeline, report, ours), name=each.post.name, daemon=True
        )
        try:
            with _signals_held():
                process.start()
        except BaseException:
            os.close(each.lifeline)
            os.close(each.report)
            raise
        finally:
            os.close(lifeline)
            os.close(report)
        assert process.pid is not None
        each.process, each.family = process, Family(process.pid)
        self._selector.register(each.report, selectors.EVENT_READ, partial(self._listen, each))
        self._selector.register(process.sentinel, selectors.EVENT_READ, partial(self._ended, each))
        faults.step("supervisor.started")

    def _begin(self, each: _Watched, lifeline: int, report: int, ours: Collection[int]) -> None:
        """In the new process: leave everything that is the supervisor's, and do the post's work.

        The supervisor's own frames stay below us, so none of its objects ends here and closes by number
        what is something else by now.
        """
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL if number != signal.SIGHUP else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for descriptor in (*ours, each.lifeline, each.report):
            os.close(descriptor)
        os.dup2(lifeline, 0)
        os.dup2(report, 1)
        os.close(lifeline)
        os.close(report)
        with suppress(OSError):  # for ps and top
            Path("/proc/self/comm").write_text(f"emode-{each.post.role}")
        self._be(each.post, each.last_end)

    def _ended(self, each: _Watched) -> None:
        """A process has ended, in whatever way."""
        process = each.process
        assert process is not None
        self._selector.unregister(process.sentinel)
        process.join()
        status = process.exitcode
        assert status is not None
        process.close()
        each.process = None
        self._listen(each)
        if each.report >= 0:
            self._selector.unregister(each.report)
            os.close(each.report)
        os.close(each.lifeline)
        each.report = each.lifeline = -1
        each.last_end = _ending(status, each.eaten_mib, each.memory_mib)
        last = not any(other.process for other in self._watched if other.post.role is each.post.role)
        self._estate.ended(each.post, last=last)
        if self._stopping:
            return
        began_late = each.started_at - self._began > _FATAL_AFTER_S
        if status == EXIT_FATAL and began_late and not each.was_ready:
            self._fatal = status
            self._stop = True
            return
        # One that worked and was killed (by a person, by the kernel) says nothing about the next one.
        self._put_off(each, status, killed=each.is_ready and status < 0)

    def _put_off(self, each: _Watched, status: int | None, *, killed: bool) -> None:
        """Say that a process is gone, or could not be started, and when the next one is."""
        now = time.monotonic()
        if killed or now - each.started_at > _STABLE_AFTER_S:
            each.pause_s = _FIRST_PAUSE_S
        log.error(
            "process ended and is started again",
            extra={
                "action": "role-restart",
                **each.post.fields,
                "status": status,
                "seconds": each.pause_s,
            },
        )
        try:
            self._tell_ended(each.post, status)
        except Exception as error:  # noqa: BLE001
            log.error(
                "end of a process not recorded",
                extra={"action": "audit-failed", "code": type(error).__name__, "where": where(error)},
            )
        each.due_at = now + each.pause_s
        each.pause_s = min(_LONGEST_PAUSE_S, each.pause_s * 2)

    def _listen(self, each: _Watched) -> None:
        """Read what a process says; anything but its line is of a library that prints."""
        if each.report < 0:
            return
        with suppress(BlockingIOError):
            while some := os.read(each.report, 4096):
                *lines, each.said = (each.said + some).split(b"\n")
                each.said = each.said[-_LONGEST_LINE:]
                for line in lines:
                    with suppress(ValueError):
                        facts = json.loads(line)
                        if isinstance(facts, dict):
                            self._note_ready(each, facts)
            self._selector.unregister(each.report)  # it has closed its end
            os.close(each.report)
            each.report = -1

    def _note_ready(self, each: _Watched, facts: dict[str, Any]) -> None:
        log.info(
            "process ready",
            extra={"action": "ready", **each.post.fields, "pid": each.family.pid, **facts},
        )
        each.is_ready = each.was_ready = True
        if all(other.is_ready for other in self._watched):
            log.info("node ready", extra={"action": "node-ready"})


@contextmanager
def _signals_held() -> Iterator[None]:
    """Around a fork: a signal must not find the new process with the supervisor's handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _open_descriptors() -> set[int]:
    """What this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all that is wanted
        with suppress(OSError):  # that of the listing itself
            os.fstat(int(name))
            found.add(int(name))
    return found


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
        while os.read(0, 1024):
            pass
        stop.set()
        time.sleep(_DRAIN_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def report_ready(**facts: Any) -> None:
    """In a supervised process: tell the supervisor that work can begin."""
    with suppress(BrokenPipeError):  # it is gone; the end of our input says so too
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
