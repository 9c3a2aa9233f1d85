"""The world under test: a node on a small disk, with a clock that can be set, two archives, lines between."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from chaos.senders import AT_ONCE, WHEN_SETTLED
from chaos.wire import Wire
from dicom_node.core.faults import FLAG
from dicom_node.demo.child import free_ports
from harness import EMODE, node_config
from peers.loopback import build_shim
from peers.orthanc import Orthanc

ROLES = ("receiver", "worker", "courier")
_DISK_MIB = 2048


class Disk:
    """A file system of its own for the data folder, where this user may mount one."""

    def __init__(self, folder: Path) -> None:
        """Mount it, or leave a plain folder."""
        self.folder = folder
        folder.mkdir(parents=True)
        options = f"size={_DISK_MIB}m,mode=700"
        self.is_small = _quiet("mount", "-t", "tmpfs", "-o", options, "emode-chaos", str(folder))

    def fill(self, left_bytes: int) -> None:
        """Leave no more than this many bytes free."""
        for _ in range(20):
            facts = os.statvfs(self.folder)
            used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
            if self._resize(str(used + left_bytes)):
                return
        raise AssertionError("the small disk could not be filled")

    def free(self) -> None:
        """Give it room again."""
        self._resize(f"{_DISK_MIB}m")

    def remove(self) -> None:
        """Unmount."""
        if self.is_small:
            self.is_small = not _quiet("umount", "-l", str(self.folder))

    def _resize(self, size: str) -> bool:
        return self.is_small and _quiet("mount", "-o", f"remount,size={size}", str(self.folder))


class Clock:
    """The time of day of the node's processes; their monotonic clock goes on as it does."""

    def __init__(self, folder: Path) -> None:
        """Start at the true time. Needs a C compiler; without one the clock cannot be set."""
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("q", 0))
        self._library = build_shim(Path(__file__).with_name("clock.c"))
        self.can_be_set = self._library is not None

    @property
    def environment(self) -> dict[str, str]:
        """What the node's processes need."""
        if self._library is None:
            return {}
        return {"LD_PRELOAD": str(self._library), "EMODE_CHAOS_CLOCK": str(self._file)}

    def set(self, offset_s: int) -> None:
        """So many seconds before or after the true time, at once and for every process."""
        with self._file.open("r+b") as file:  # the file is mapped: written over, never replaced
            file.write(struct.pack("q", offset_s))


class NodeUnderTest:
    """`emode serve`, its processes found by the mark in their environment, its log followed."""

    def __init__(self, folder: Path, config: dict[str, Any], environment: dict[str, str]) -> None:
        """Prepare; nothing runs before `start`."""
        self.orders = folder / "orders"
        self.orders.mkdir(parents=True)
        self.port = int(config["listen"]["port"])
        self.config_file = folder / "node.yaml"
        self.config_file.write_text(yaml.safe_dump(config))
        self.log_file = folder / "node.log"
        self.log_file.touch()
        self.data = Path(config["data_dir"])
        self.actions: Counter[str] = Counter()
        self.progress: Counter[str] = Counter()
        """Role -> images received, or jobs finished."""
        self.gave_up = 0
        """Times the supervisor left without being killed."""
        self._environment = os.environ | environment | {FLAG: str(self.orders)}
        self._mark = f"{FLAG}={self.orders}".encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: dict[str, int] = {}
        self._closed = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._follower.start()

    def start(self) -> None:
        """Start the supervisor; does nothing once this is closed."""
        if self._closed.is_set():
            return
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [str(EMODE), "serve", "--config", str(self.config_file)], stderr=log, env=self._environment
            )

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(90)

    def is_running(self) -> bool:
        """Does the supervisor live?"""
        return self._process is not None and self._process.poll() is None

    def is_ready(self, role: str) -> bool:
        """Does a process of this role live that said it is ready?"""
        pid = self._ready.get(role)
        return pid is not None and _is_alive(pid)

    def wait_ready(self, role: str, timeout_s: float = 90.0) -> bool:
        """Wait for it; False if that takes too long."""
        return _wait(lambda: self.is_ready(role), timeout_s)

    def processes(self) -> dict[int, str]:
        """Every living process of this node: number -> role, "supervisor" or "helper"."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError):
                if self._mark in (entry / "environ").read_bytes():
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                    known_as = (entry / "comm").read_text().strip()
                    role = known_as.removeprefix("emode-") if known_as != "emode" else "supervisor"
                    found[int(entry.name)] = role if "serve" in words else "helper"
        return found

    def kill(self, role: str) -> bool:
        """kill -9; False if no such process lives."""
        victims = [pid for pid, known in self.processes().items() if known == role]
        for pid in victims:
            _kill(pid)
        self._ready.pop(role, None)
        if role == "supervisor":
            self._reap()
        return bool(victims)

    def kill_everything(self) -> None:
        """kill -9 to every process, the supervisor first."""
        if self._process is not None:
            _kill(self._process.pid)
        for pid in self.processes():
            _kill(pid)
        self._reap()

    def close(self) -> None:
        """Kill whatever is left and stop following the log."""
        self._closed.set()
        self._follower.join()
        while self.processes():
            self.kill_everything()
            time.sleep(0.1)

    def order(self, step: str, words: str) -> None:
        """Leave an order for a fault point."""
        (self.orders / f"obeyed-{step}").unlink(missing_ok=True)
        _replace(self.orders / step, words)

    def obeyed(self, step: str, timeout_s: float) -> bool:
        """Wait until the order is obeyed; if it is not in time, take it back."""
        done = self.orders / f"obeyed-{step}"
        if not _wait(done.exists, timeout_s):
            (self.orders / step).unlink(missing_ok=True)
        return done.exists()

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Read from the node's database as it is now."""
        connection = sqlite3.connect(f"file:{self.data / 'state.sqlite'}?mode=ro", uri=True, timeout=60)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def verify_audit(self) -> str:
        """What `emode audit verify` finds wrong; empty if nothing."""
        done = subprocess.run(
            [str(EMODE), "audit", "verify", "--json", "--config", str(self.config_file)],
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if done.returncode == 0 else (done.stdout + done.stderr)[-500:]

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(30)

    def _follow(self) -> None:
        with self.log_file.open() as log:
            rest = ""
            while True:
                text = log.read()
                if not text:
                    if self._closed.wait(0.05):
                        return
                    continue
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    with suppress(ValueError):  # half a line of somebody who was killed
                        self._note(json.loads(line))

    def _note(self, line: Any) -> None:
        if isinstance(line, dict) and "action" in line:
            self.actions[line["action"]] += 1
            if line["action"] == "image-received":
                self.progress["receiver"] += 1
            elif line["action"] == "job-finished":
                self.progress["worker" if line["kind"] == "infer" else "courier"] += 1
            elif line["action"] == "ready":
                self._ready[line["role"]] = line["pid"]


class Bench:
    """Node, archives and lines, on one folder."""

    def __init__(self, folder: Path) -> None:
        """Start everything."""
        self.folder = folder
        self.disk = Disk(folder / "data")
        self.clock = Clock(folder)
        (port,) = free_ports(1)
        known = {"node": (AT_ONCE, "127.0.0.1", port)}  # where the first reports its storage commitment
        self.archives = {
            name: Orthanc(folder / name, aet=name.upper(), modalities=known).start()
            for name in ("first", "second")
        }
        self.archive_lines = {name: Wire(archive.port) for name, archive in self.archives.items()}
        self.node = NodeUnderTest(folder, _configuration(folder, port, self), self.clock.environment)
        self.sender_line = Wire(port)
        self.node.start()

    def close(self) -> None:
        """End everything; what is on the small disk is kept beside it."""
        self.node.close()
        for archive in self.archives.values():
            with suppress(AssertionError):
                os.kill(archive.pid, signal.SIGCONT)
            archive.kill()
        for wire in (self.sender_line, *self.archive_lines.values()):
            wire.close()

    def keep_data(self) -> Path:
        """Copy what is on the small disk to a place that outlives it."""
        kept = self.folder / "data-kept"
        subprocess.run(["cp", "-a", str(self.disk.folder), str(kept)], check=False)
        return kept


def _configuration(folder: Path, port: int, bench: Bench) -> dict[str, Any]:
    lines = bench.archive_lines
    bundle = folder / "bundle"
    _write_light_bundle(bundle)
    names = list(bench.archives)
    config = node_config(
        folder,
        {name: (archive.aet, lines[name].port) for name, archive in bench.archives.items()},
        listen={"port": port, "idle_timeout_s": 15},
        bundles={"default": str(bundle)},
        routes=[
            {"name": "breast", "called_ae_title": AT_ONCE, "destinations": names},
            {
                "name": "held",
                "called_ae_title": WHEN_SETTLED,
                "destinations": names,
                "deliver": "when-settled",
            },
        ],
        settle={"quiet_s": 3, "max_wait_s": 60},
        # So little that files are purged while images come.
        retention={"max_gib": 0.02},
        # Whoever is killed in the middle has used up an attempt; here that happens all the time.
        inference={"max_attempts": 100, "threads": 1},
    )
    for destination in config["destinations"].values():
        destination |= {
            "answer_timeout_s": 6,
            "breaker": {"failures": 3, "first_pause_s": 1, "cap_s": 4},
            "retry": {"max_attempts": 1000, "first_delay_s": 0.5, "factor": 1.5, "cap_s": 4},
        }
    config["destinations"]["first"] |= {"confirm": "commitment", "commitment_timeout_s": 10}
    return config


def _write_light_bundle(folder: Path) -> None:
    """A network with random weights: what it shows is nonsense, and it is quick."""
    program = """
import sys, numpy as np, torch
from pathlib import Path
from model.bundle import Bundle, SelfTest, pack_weights, write_bundle
from model.generator import Generator, GeneratorSpec
from model.inference import Inference
from model.manifest import sha256
from model.preprocess import PreprocessSpec
torch.manual_seed(0)
spec = GeneratorSpec(channels=(8, 8, 16, 16), dim=32, layers=1, heads=2)
network, preprocess = Generator(spec), PreprocessSpec(height=64, width=80)
weights = {name: value.half() for name, value in network.state_dict().items()}
network.load_state_dict({name: value.float() for name, value in weights.items()})
frame = np.random.default_rng(0).integers(0, 256, (90, 130), dtype=np.uint8)
result = Inference(network, preprocess).predict([frame])[0]
write_bundle(Bundle(
    name="chaos", version="1.0.0", created_at="2026-01-01T00:00:00+00:00", licence="Apache-2.0",
    generator=spec, preprocess=preprocess, training={"simulated": True}, metrics={"ncc": 0.0},
    weights=weights, weights_sha256=sha256(pack_weights(weights)),
    self_test=SelfTest(frame, result.strain, result.colour), card="# Random weights\\n",
), Path(sys.argv[1]))
"""
    # A process of its own: torch stays out of the campaign.
    subprocess.run([sys.executable, "-P", "-c", program, str(folder)], check=True)


def _wait(there: Any, timeout_s: float, every_s: float = 0.05) -> bool:
    deadline = time.monotonic() + timeout_s
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _replace(file: Path, text: str) -> None:
    """Write at once: nobody reads half of it."""
    aside = file.with_name(f".{file.name}.new")
    aside.write_text(text)
    aside.rename(file)


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
