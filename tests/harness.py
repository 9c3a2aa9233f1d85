"""A real node in real processes: started, watched through its log and its command line, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from pydicom import config as pydicom_config
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from dicom_node.core.image import Arrival
from dicom_node.dicom.part10 import dataset_offset, file_head
from dicom_node.network.blanks import BlankFiles
from dicom_node.network.scp import Received
from dicom_node.network.spool import Spool, SpoolLimits
from dicom_node.store import overview
from dicom_node.store.database import open_existing_database

EMODE = Path(sys.executable).parent / "emode"


def node_config(folder: Path, archives: dict[str, tuple[str, int]], **sections: Any) -> dict[str, Any]:
    """A configuration for a test: any peer on this machine, results to `archives` {name: (AET, port)}.

    Sections given replace or, for mappings, extend the ones here.
    """
    config: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "listen": {"port": 0},
        "accept_unknown_peers": True,
        "destinations": {
            name: {
                "ae_title": title,
                "host": "127.0.0.1",
                "port": port,
                "confirm_delay_s": 0.1,
                "connect_timeout_s": 5,
                "answer_timeout_s": 10,
                "retry": {"first_delay_s": 1, "factor": 1.5, "cap_s": 5},
            }
            for name, (title, port) in archives.items()
        },
        "routes": [{"name": "breast", "destinations": list(archives), "match": {"body_part": []}}],
        "limits": {"min_free_mib": 0},
        # What tests send is speckle rather than a breast, and must get its results.
        "inference": {"unfamiliar": "mark"},
        "log": {"format": "json"},
    }
    for key, value in sections.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            config[key] = config[key] | value
        else:
            config[key] = value
    return config


class Node:
    """`emode serve` as a subprocess on its own folder; ports and pids come from its log."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        environment: dict[str, str] | None = None,
        only: Iterable[str] = (),
    ) -> None:
        """Write the configuration; nothing runs before `start`. only: the roles to start, if not all."""
        self.folder = folder
        self.config_file = folder / "node.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(yaml.safe_dump(config))
        self._environment = os.environ | (environment or {})
        self._only = [word for role in only for word in ("--only", role)]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.log: list[dict[str, Any]] = []
        self.stderr: list[str] = []

    @property
    def port(self) -> int:
        """The receiver's port."""
        return int(self.events("ready", role="receiver")[-1]["port"])

    @property
    def tls_port(self) -> int:
        """The receiver's port for DICOM over TLS."""
        return int(self.events("ready", role="receiver")[-1]["tls_port"])

    @property
    def supervisor_pid(self) -> int | None:
        """The process that starts and watches the others, while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, roles: Iterable[str] = ("receiver", "worker", "courier")) -> Node:
        """Start, and wait until these roles are ready."""
        seen = len(self.log)
        self._process = subprocess.Popen(
            [str(EMODE), "serve", *self._only, "--config", str(self.config_file)],
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        for role in roles:
            self.wait(lambda role=role: self.events("ready", role=role, after=seen), f"{role} is ready")
        return self

    def stop(self) -> int:
        """SIGTERM, and wait until all processes have left; return the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._end()

    def reload(self) -> None:
        """SIGHUP to the supervisor: certificates are read anew."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """kill -9 to the supervisor and every process of the node."""
        assert self._process is not None
        # The supervisor first, or it would start what we end; its processes leave with it if we miss one.
        for pid in [self._process.pid, *self.pids().values()]:
            _kill(pid)
        self._end()

    def kill_role(self, role: str) -> None:
        """kill -9 to one process; the supervisor starts another."""
        _kill(self.pids()[role])

    def pids(self) -> dict[str, int]:
        """The newest process of each post: receiver, receiver-2, worker, courier."""
        ready = self.events("ready")
        return {
            e["role"] if "number" not in e else f"{e['role']}-{e['number']}": int(e["pid"]) for e in ready
        }

    def events(self, action: str, *, after: int = 0, **fields: Any) -> list[dict[str, Any]]:
        """Log lines with this action and these fields."""
        wanted = {"action": action, **fields}
        return [line for line in self.log[after:] if wanted.items() <= line.items()]

    def emode(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an `emode` command with this node's configuration."""
        done = subprocess.run(
            [str(EMODE), *arguments, "--config", str(self.config_file)],
            capture_output=True,
            text=True,
            timeout=120,
            env=self._environment,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"emode {arguments} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def facts(self, *arguments: str) -> Any:
        """The JSON that an `emode` command prints."""
        return json.loads(self.emode(*arguments, "--json").stdout)

    def images(self, **fields: Any) -> list[dict[str, Any]]:
        """The images as `emode status` has them."""
        lines = self.facts("status", "--limit", "10000")["images"]
        return [line for line in lines if fields.items() <= line.items()]

    def wait_for_stage(self, count: int, *stages: str, timeout_s: float = 90.0) -> list[dict[str, Any]]:
        """Wait until `count` images are known and all of them are in one of these stages."""

        def there() -> bool:
            found = self._stages()
            return len(found) >= count and all(stage in stages for stage in found)

        self.wait(there, f"{count} image(s) in {stages}", timeout_s, every_s=0.2)
        return self.images()

    def _stages(self) -> list[str]:
        """What `emode status` would say; a command for each look would cost more than the node's own work."""
        data = Path(yaml.safe_load(self.config_file.read_text())["data_dir"])
        database = open_existing_database(data / "state.sqlite")
        try:
            with database.read() as conn:
                return [line.stage for line in overview.image_lines(conn, study=None, limit=10_000)]
        finally:
            database.close()

    def wait(
        self, there: Callable[[], Any], what: str, timeout_s: float = 60.0, every_s: float = 0.05
    ) -> None:
        """Wait until `there()` is true, or fail with the node's log."""
        deadline = time.monotonic() + timeout_s
        while not there():
            if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                raise AssertionError(f"not so: {what}\n" + "\n".join(self.stderr[-40:]))
            time.sleep(every_s)

    def _end(self) -> int:
        assert self._process is not None
        assert self._reader is not None
        status = self._process.wait(60)
        self._reader.join(40)
        if self._process.stderr is not None and not self._reader.is_alive():
            self._process.stderr.close()
        self._process = None
        return status

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.stderr.append(line.rstrip("\n"))
            if line.startswith("{"):
                self.log.append(json.loads(line))

    def __enter__(self) -> Node:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self.kill()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Receiver:
    """The receiver's process alone: no supervisor, no worker, no courier."""

    def __init__(
        self, folder: Path, config: dict[str, Any], environment: dict[str, str] | None = None
    ) -> None:
        """Start it and wait until it listens."""
        self.node = Node(folder, config, environment)  # for its configuration file and commands
        self.stderr = (folder / "receiver.log").open("w+")
        self.process = subprocess.Popen(
            [str(EMODE), "serve", "--role", "receiver", "--config", str(self.node.config_file)],
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env=os.environ | (environment or {}),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.stderr.seek(0)
            raise AssertionError(self.stderr.read())
        facts = json.loads(line)
        self.port = int(facts.get("port", 0))
        self.tls_port = int(facts.get("tls_port", 0))

    @property
    def log(self) -> str:
        """Everything it logged so far."""
        return Path(self.stderr.name).read_text()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(40)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.stderr.close()


def received_from(path: Path, incoming: Path, blanks: BlankFiles | None = None) -> Received:
    """A file as the receiver has it once it has arrived, from PACS to EMODE."""
    meta = read_file_meta_info(path)
    syntax = str(meta.TransferSyntaxUID)
    uids = str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)
    spool = Spool(SpoolLimits(incoming, 1 << 30, lambda: None), syntax, blanks)
    spool.begin(file_head(*uids, syntax))
    spool.write(memoryview(path.read_bytes()[dataset_offset(path) :]))
    spool.end()
    return Received(spool, Arrival("PACS", "EMODE", "127.0.0.1"), *uids)


def raw_store(
    port: int,
    sop_class: str,
    sop_instance: str,
    data_set: bytes,
    *,
    syntax: str = "1.2.840.10008.1.2.1",
    called: str = "EMODE",
) -> int | None:
    """C-STORE exactly these bytes under exactly these UIDs; the status, or None if there was no answer."""
    ae = AE("ROGUE")
    ae.dimse_timeout = 20
    association = ae.associate(
        "127.0.0.1", port, contexts=[build_context(sop_class, syntax)], ae_title=called
    )
    assert association.is_established
    try:
        request = C_STORE()
        request.MessageID = 1
        request.Priority = 0
        request._affected_sop_class_uid = UID(sop_class)
        # Past pynetdicom's own check, which would not let us be rude.
        request._affected_sop_instance_uid = UID(sop_instance, validation_mode=pydicom_config.IGNORE)
        request.DataSet = BytesIO(data_set)
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
    finally:
        if association.is_established:
            association.release()
    return answer.Status if answer is not None else None
