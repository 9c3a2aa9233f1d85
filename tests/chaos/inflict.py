"""Carry faults out, lane by lane, while everything else goes on."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter

from chaos.bench import ROLES, Bench
from chaos.plan import Fault

_OFFSETS_S = (20, 600, 7200, 3 * 86400, 40 * 86400)
_NEEDS_START = ("role", "migrate", "takeback", "sweep", "purge")
_SELDOM = ("settle",)
_REACHED_WITHIN_S = 25.0
_PROGRESS_WITHIN_S = 6.0


class Inflictor:
    """Runs the faults of a plan; counts those that really happened."""

    def __init__(self, bench: Bench, plan: dict[str, list[Fault]], seed: int) -> None:
        """Prepare one thread for each lane."""
        self._bench = bench
        self._node = bench.node
        self._lock = threading.Lock()
        self._restart = threading.Lock()
        self.done: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.not_reached: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(
                target=self._run, args=(faults, random.Random(f"{seed}-{lane}")), name=lane, daemon=True
            )
            for lane, faults in plan.items()
            if faults
        ]
        self._over = threading.Event()
        self._doctor = threading.Thread(target=self._keep_running, daemon=True)

    def start(self) -> None:
        """Let things go wrong."""
        self._doctor.start()
        for thread in self._threads:
            thread.start()

    def busy(self) -> list[str]:
        """Lanes that are not through yet."""
        return [thread.name for thread in self._threads if thread.is_alive()]

    def end(self) -> None:
        """Leave the node alone."""
        self._over.set()
        if self._doctor.is_alive():
            self._doctor.join()

    def _keep_running(self) -> None:
        """Start the supervisor again when it is gone, as an init system would."""
        while not self._over.wait(0.5):
            with self._restart:
                if not self._node.is_running():
                    self._node.gave_up += 1
                    self._node.start()

    def _run(self, faults: list[Fault], dice: random.Random) -> None:
        for fault in faults:
            if self._over.is_set():
                return
            try:
                self._inflict(fault, dice)
            except Exception as error:  # noqa: BLE001 - the campaign shall say so, not hang
                with self._lock:
                    self.failures.append(f"{fault.kind} {fault.step or ''}: {type(error).__name__}: {error}")

    def _inflict(self, fault: Fault, dice: random.Random) -> None:
        kind = fault.kind
        if fault.step is not None:
            kind = self._at_step(fault, dice)
        elif fault.lane in ROLES:
            self._kill_role(fault.lane, dice)
        elif fault.lane == "supervisor":
            self._kill_supervisor(kind, dice)
        elif kind == "disk full":
            self._fill_disk(dice)
        elif kind == "database locked":
            self._lock_database(dice)
        elif kind == "clock set":
            self._set_clock(dice)
        elif fault.lane == "archives":
            self._hurt_archive(kind, dice)
        else:
            self._cut_line(kind, dice)
        with self._lock:
            self.done[kind] += 1

    # -- processes ----------------------------------------------------------------------------

    def _kill_role(self, role: str, dice: random.Random) -> None:
        if dice.random() < 0.85:
            self._node.wait_ready(role)
            self._wait_for_progress(role)
        time.sleep(dice.uniform(0, 1.5))
        while not self._node.kill(role):
            time.sleep(0.1)

    def _wait_for_progress(self, role: str) -> None:
        """Kills are to meet work, however slow the machine is; but some are to meet a process without any."""
        before, deadline = self._node.progress[role], time.monotonic() + _PROGRESS_WITHIN_S
        while self._node.progress[role] == before and time.monotonic() < deadline:
            time.sleep(0.05)

    def _kill_supervisor(self, kind: str, dice: random.Random) -> None:
        for role in ROLES:
            self._node.wait_ready(role)
        time.sleep(dice.uniform(0, 3))
        with self._restart:
            if kind == "kill everything":
                self._node.kill_everything()
            else:
                self._node.kill("supervisor")
            self._node.start()

    def _at_step(self, fault: Fault, dice: random.Random) -> str:
        assert fault.step is not None
        room = fault.step.partition(".")[0]
        role = fault.lane if fault.lane in ROLES else dice.choice(ROLES)
        action = "kill" if fault.kind == "kill at a named step" else "full"
        self._node.wait_ready(role)
        if room == "sweep":
            self._leave_orphan(dice)
        if room == "supervisor":
            return self._at_supervisor_step(fault, role)
        passes = 1 if room in _NEEDS_START + _SELDOM else dice.choice((1, 1, 2, 3, 5))
        self._node.order(fault.step, f"{action} {passes}")
        if room in _NEEDS_START:
            self._node.kill("courier" if room in ("sweep", "purge") else role)
        if self._node.obeyed(fault.step, _REACHED_WITHIN_S):
            time.sleep(0.2)  # an order is marked as obeyed a moment before the process dies
            with self._lock:
                self.steps[fault.step] += 1
            return fault.kind
        with self._lock:
            self.not_reached[fault.step] += 1
        self._kill_role(role, dice)
        return f"kill {role}"

    def _at_supervisor_step(self, fault: Fault, role: str) -> str:
        assert fault.step is not None
        with self._restart:
            self._node.order(fault.step, "kill 1")
            self._node.kill(role)
            reached = self._node.obeyed(fault.step, _REACHED_WITHIN_S)
            self._node.kill("supervisor")
            self._node.start()
        with self._lock:
            (self.steps if reached else self.not_reached)[fault.step] += 1
        return fault.kind if reached else "kill supervisor"

    def _leave_orphan(self, dice: random.Random) -> None:
        """A file without a row, as a kill leaves it."""
        content = dice.randbytes(300)
        name = hashlib.sha256(content).hexdigest()
        path = self._node.data / "source" / name[:2] / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(content)

    # -- what a node stands on ----------------------------------------------------------------

    def _fill_disk(self, dice: random.Random) -> None:
        time.sleep(dice.uniform(0.5, 3))
        self._bench.disk.fill(dice.choice((0, 4096, 65536, 300_000)))
        try:
            time.sleep(dice.uniform(0.5, 3))
        finally:
            self._bench.disk.free()

    def _lock_database(self, dice: random.Random) -> None:
        time.sleep(dice.uniform(0.5, 3))
        seconds = 33.0 if dice.random() < 0.08 else dice.uniform(0.5, 4)
        connection = sqlite3.connect(self._node.data / "state.sqlite", timeout=30, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    def _set_clock(self, dice: random.Random) -> None:
        time.sleep(dice.uniform(1, 4))
        self._bench.clock.set(dice.choice((-1, 1)) * dice.choice(_OFFSETS_S))
        time.sleep(dice.uniform(2, 5))
        if dice.random() < 0.5:
            self._bench.clock.set(0)

    # -- the others ---------------------------------------------------------------------------

    def _hurt_archive(self, kind: str, dice: random.Random) -> None:
        time.sleep(dice.uniform(0.5, 3))
        archive = self._bench.archives[dice.choice(sorted(self._bench.archives))]
        if kind == "archive killed":
            archive.kill()
            time.sleep(dice.uniform(0, 3))
            archive.start()
            return
        os.kill(archive.pid, signal.SIGSTOP)
        try:
            time.sleep(dice.choice((0.5, 2, 9)))
        finally:
            os.kill(archive.pid, signal.SIGCONT)

    def _cut_line(self, kind: str, dice: random.Random) -> None:
        line = self._bench.sender_line
        if kind == "archive's line cut":
            line = self._bench.archive_lines[dice.choice(sorted(self._bench.archive_lines))]
        # Towards the receiver of images a cut is mostly in the middle of one; on the way back, of an answer.
        direction, count = dice.choice((("there", dice.randint(1, 60_000)), ("back", dice.randint(1, 1500))))
        line.cut_after(count, direction).wait(60)  # type: ignore[arg-type]
