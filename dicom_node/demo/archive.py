"""The archive of the demo: Orthanc where it is installed, else the small one of ours, on loopback."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom import Dataset

from dicom_node.demo.builtin import BuiltinArchive, stored_path
from dicom_node.demo.child import Child, ProgramNotStarted, free_ports
from dicom_node.demo.orthanc import Modality, OrthancServer, OrthancSettings, find_orthanc, orthanc_version
from dicom_node.network.query import find, open_to_query
from dicom_node.network.requestor import RemoteAE, Requestor

log = logging.getLogger(__name__)

ARCHIVE_AET = "ARCHIVE"
DEMO_CALLERS = ("EMODE", "SCANNER")
"""The AE titles that may associate with the demo's archive, from this machine only."""

_ASKER = "DEMO_ASKER"
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_CONNECT_S, _ANSWER_S = 10.0, 60.0


class RunningArchive:
    """An archive that takes and lists instances until it is stopped."""

    host = "127.0.0.1"

    def __init__(
        self,
        kind: str,
        port: int,
        program: OrthancServer | Child,
        read: Callable[[str], bytes],
        aet: str = ARCHIVE_AET,
    ) -> None:
        """Use `start_archive`."""
        self.aet = aet
        self.kind = kind
        """What it is, for people: `Orthanc 1.10.1` or `built-in`."""
        self.port = port
        self._program = program
        self._read = read

    def sop_instance_uids(self, study_instance_uid: str = "") -> set[str]:
        """What it lists over C-FIND, in one study or in all.

        Raises QueryRefused, or what `open_association` raises.
        """
        remote = RemoteAE(
            f"{self.kind} archive", self.aet, self.host, self.port, _ASKER, _CONNECT_S, _ANSWER_S
        )
        with open_to_query(remote) as association:
            ask = partial(_find, remote, association)
            found: set[str] = set()
            # Study Root without relational queries: every level names all levels above (PS3.4 C.4.1.2).
            for study in ask("STUDY", study_instance_uid):
                for series in ask("SERIES", study, ""):
                    found |= set(ask("IMAGE", study, series, ""))
            return found

    def count(self, study_instance_uid: str = "") -> int:
        """How many instances it lists."""
        return len(self.sop_instance_uids(study_instance_uid))

    def read(self, sop_instance_uid: str) -> bytes:
        """The DICOM file of one instance as the archive keeps it; raises KeyError if it does not."""
        return self._read(sop_instance_uid)

    def stop(self) -> None:
        """End it in order (Orthanc takes 3 s). What it stored stays in its folder."""
        self._program.stop()

    def kill(self) -> None:
        """End it as a power cut would, at once. What it stored stays in its folder."""
        self._program.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_archive(
    folder: Path, *, callers: Sequence[str] = DEMO_CALLERS, use_orthanc: bool = True
) -> RunningArchive:
    """Start an archive that keeps everything under `folder`.

    callers  AE titles that may associate. Orthanc listens on every address of the machine, so the
             list is closed and each caller must come from 127.0.0.1.

    Where Orthanc is installed but does not start, ours takes its place, with a warning in the log.

    Raises ProgramNotStarted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = find_orthanc() if use_orthanc else None
    if program is not None:
        try:
            return _start_orthanc(program, folder, callers)
        except ProgramNotStarted as problem:
            log.warning("Orthanc did not start, using our own", extra={"detail": problem.detail})
    return _start_builtin(folder, callers)


def _start_orthanc(program: Path, folder: Path, callers: Sequence[str]) -> RunningArchive:
    for attempts_left in (2, 1, 0):
        http_port, dicom_port = free_ports(2)
        # Orthanc is told who may come, not where to send: the port of a caller is never used.
        known = {aet: Modality(aet, RunningArchive.host, dicom_port) for aet in (*callers, _ASKER)}
        settings = OrthancSettings(
            ARCHIVE_AET, http_port, dicom_port, known, closed=True, check_called_aet=True
        )
        server = OrthancServer(program, folder, settings)
        try:
            server.start()
            break
        except ProgramNotStarted:
            # Another program may have taken a port between looking and binding.
            if not attempts_left:
                raise
    kind = f"Orthanc {orthanc_version(program)}"
    return RunningArchive(kind, dicom_port, server, server.instance_bytes)


def _start_builtin(folder: Path, callers: Sequence[str]) -> RunningArchive:
    instances, printed = folder / "instances", folder / "archive.log"
    printed.unlink(missing_ok=True)
    command = [sys.executable, "-m", "dicom_node.demo.archive", "--port", "0", "--folder", str(instances)]
    for aet in (*callers, _ASKER):
        command += ["--caller", aet]
    child = Child(command, printed)
    child.wait_until(lambda: _announced_port(printed) is not None)
    port = _announced_port(printed)
    assert port is not None  # the wait above returned

    def read(sop_instance_uid: str) -> bytes:
        path = stored_path(instances, sop_instance_uid)
        if not path.exists():
            raise KeyError(sop_instance_uid)
        return path.read_bytes()

    return RunningArchive("built-in", port, child, read)


def _announced_port(printed: Path) -> int | None:
    for line in printed.read_text(errors="replace").splitlines(keepends=True):
        if line.startswith('{"port"') and line.endswith("\n"):
            return int(json.loads(line)["port"])
    return None


def _find(remote: RemoteAE, association: Requestor, level: str, *uids: str) -> list[str]:
    """The UIDs at `level`, below the UIDs that are given; the last of `uids` may be empty: all."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, uid in zip(_UIDS, uids, strict=False):
        setattr(query, keyword, uid)
    wanted = _UIDS[len(uids) - 1]
    return [str(match[wanted].value) for match in find(remote, association, query)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the built-in archive until told to end; print one JSON line with its port when ready."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.demo.archive", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where instances are kept")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--aet", default=ARCHIVE_AET, help="its AE title")
    parser.add_argument("--caller", action="append", default=[], help="AE title to let in; none: any")
    options = parser.parse_args(arguments)
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    server = BuiltinArchive(options.folder, options.aet, tuple(options.caller)).serve(options.port)
    sys.stdout.write(json.dumps({"port": server.socket.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    end.wait()
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
