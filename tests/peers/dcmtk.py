"""DCMTK's programs, by full path: pynetdicom installs others of the same names into a venv."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pydicom
from pydicom import Dataset
from pydicom.filereader import read_file_meta_info

from dicom_node.demo.child import Child, ProgramNotStarted, free_ports, is_listening
from peers.loopback import peer_environment

_FOLDERS = (Path("/usr/bin"), Path("/usr/local/bin"), Path("/opt/homebrew/bin"))

# What storescu has to be told so that it offers a file's own transfer syntax. It knows no others.
_PROPOSE = {
    pydicom.uid.ImplicitVRLittleEndian: "-xi",
    pydicom.uid.ExplicitVRLittleEndian: "-xe",
    pydicom.uid.ExplicitVRBigEndian: "-xb",
    pydicom.uid.JPEGBaseline8Bit: "-xy",
    pydicom.uid.JPEGExtended12Bit: "-xx",
    pydicom.uid.JPEGLosslessSV1: "-xs",
    pydicom.uid.JPEG2000Lossless: "-xv",
    pydicom.uid.JPEG2000: "-xw",
    pydicom.uid.JPEGLSLossless: "-xt",
    pydicom.uid.JPEGLSNearLossless: "-xu",
    pydicom.uid.RLELossless: "-xr",
    pydicom.uid.DeflatedExplicitVRLittleEndian: "-xd",
}
_STATUS = re.compile(r"DIMSE Status\s*: 0x([0-9a-fA-F]{4})")


class DcmtkFailed(Exception):
    """A DCMTK program reported a failure."""

    def __init__(self, program: str, output: str) -> None:
        """Keep what it printed."""
        self.output = output
        super().__init__(f"{program}:\n{output[-4000:]}")


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sender saw."""

    statuses: tuple[int, ...]
    """One per C-STORE answer, in the order of the answers."""
    output: str


def find_tool(name: str) -> Path | None:
    """Full path of a DCMTK program, if it is installed."""
    return next((folder / name for folder in _FOLDERS if os.access(folder / name, os.X_OK)), None)


def run_tool(name: str, *arguments: str | Path, check: bool = True, timeout_s: float = 120) -> str:
    """Run one program to its end, return all it printed; raises DcmtkFailed on a failure if `check`."""
    path = find_tool(name)
    if path is None:
        raise DcmtkFailed(name, "not installed; see deploy/install-test-peers.sh")
    done = subprocess.run(
        [path, *map(str, arguments)],
        env={**os.environ, **peer_environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        check=False,
    )
    # Patient names come in any character set.
    output = done.stdout.decode(errors="replace")
    if check and done.returncode != 0:
        raise DcmtkFailed(f"{name} (exit {done.returncode})", output)
    return output


def storescu(
    files: Iterable[Path],
    host: str,
    port: int,
    aet: str = "STORESCU",
    aec: str = "ANY-SCP",
    *options: str,
    check: bool = True,
) -> Sent:
    """Send files as they are: one association per transfer syntax, `options` added to each.

    Raises DcmtkFailed if an association or an instance failed, unless not to `check`.
    """
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(str(read_file_meta_info(file).TransferSyntaxUID), []).append(file)
    statuses: list[int] = []
    outputs: list[str] = []
    for syntax, group in groups.items():
        if syntax not in _PROPOSE:
            raise DcmtkFailed("storescu", f"cannot offer transfer syntax {syntax}; use dcmsend")
        # -R: only what these files need. -nh: one failure does not keep back the rest.
        common = ("-d", "-R", "-nh", "-aet", aet, "-aec", aec, *options)
        output = run_tool(
            "storescu", *common, _PROPOSE[pydicom.uid.UID(syntax)], host, str(port), *group, check=check
        )
        outputs.append(output)
        # The request has no status, so every match is an answer.
        statuses += [int(code, 16) for code in _STATUS.findall(output)]
    sent = Sent(tuple(statuses), "\n".join(outputs))
    failed = [status for status in statuses if status != 0 and status >> 12 != 0xB]
    if check and (failed or not statuses):
        raise DcmtkFailed("storescu", sent.output)
    return sent


def dcmsend(
    files: Iterable[Path], host: str, port: int, aet: str = "DCMSEND", aec: str = "ANY-SCP", *options: str
) -> str:
    """Send files of any transfer syntax as they are; raises DcmtkFailed if one was not taken."""
    common = ("-v", "-dn", "-nuc", "-aet", aet, "-aec", aec, *options)
    output = run_tool("dcmsend", *common, host, str(port), *files)
    if "with status SUCCESS" not in output:
        raise DcmtkFailed("dcmsend", output)
    return output


def echoscu(host: str, port: int, aet: str = "ECHOSCU", aec: str = "ANY-SCP", *options: str) -> str:
    """C-ECHO; return what it printed; raises DcmtkFailed."""
    common = ("-v", "-to", "10", "-ta", "10", "-aet", aet, "-aec", aec, *options)
    return run_tool("echoscu", *common, host, str(port))


def findscu(
    host: str, port: int, level: str, keys: Mapping[str, str], aet: str = "FINDSCU", aec: str = "ANY-SCP"
) -> list[Dataset]:
    """C-FIND, Study Root; return the answers. An empty value in `keys` asks for that attribute."""
    arguments: list[str] = ["-k", f"QueryRetrieveLevel={level}"]
    for keyword, value in keys.items():
        arguments += ["-k", f"{keyword}={value}" if value else keyword]
    with tempfile.TemporaryDirectory() as folder:
        run_tool(
            "findscu", "-v", "-S", "-X", "-od", folder, "-aet", aet, "-aec", aec, *arguments, host, str(port)
        )
        return [pydicom.dcmread(path, force=True) for path in sorted(Path(folder).iterdir())]


def dcmdump(path: Path, *options: str) -> str:
    """The file as DCMTK reads it."""
    return run_tool("dcmdump", *options, path)


class StoreScp:
    """storescp, writing what it takes into `folder`; it can be told to misbehave."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, aet: str = "STORESCP", options: Sequence[str] = ()) -> None:
        """Prepare; `options` as storescp's: `--abort-after`, `--refuse`, `--sleep-during`, `2`..."""
        self.folder = folder
        self.aet = aet
        self.port = 0
        self._options = list(options)
        self._child: Child | None = None

    def start(self) -> Self:
        """Start; the first time on a free port, later on the same one."""
        program = find_tool("storescp")
        if program is None:
            raise ProgramNotStarted("storescp is not installed; see deploy/install-test-peers.sh")
        (self.folder / "received").mkdir(parents=True, exist_ok=True)
        attempts = 1 if self.port else 3
        for attempt in range(attempts):
            port = self.port or free_ports(1)[0]
            # +B: files hold the very bytes that came over the wire. +xa: any transfer syntax.
            command = [
                str(program),
                "-v",
                "-aet",
                self.aet,
                "-od",
                str(self.folder / "received"),
                "-fe",
                ".dcm",
            ]
            command += ["+B", "+xa", *self._options, str(port)]
            child = Child(command, self.folder / "storescp.log", peer_environment())
            try:
                child.wait_until(lambda port=port: is_listening(port))  # type: ignore[misc]
            except ProgramNotStarted:
                if attempt + 1 == attempts:
                    raise
            else:
                self.port, self._child = port, child
                break
        return self

    def stop(self) -> None:
        """End it; does nothing if it does not run."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def restart(self, options: Sequence[str] | None = None) -> None:
        """Stop and start on the same port, with other options if some are given."""
        self.stop()
        self._options = self._options if options is None else list(options)
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def log(self) -> str:
        """Everything it printed."""
        return (self.folder / "storescp.log").read_text(errors="replace")

    def files(self) -> list[Path]:
        """What it wrote so far; the last one may not be complete while its sender still waits."""
        return sorted((self.folder / "received").glob("*.dcm"))

    def wait_for(self, count: int, timeout_s: float = 20.0) -> list[Dataset]:
        """Return all instances once there are at least `count` complete ones; raises AssertionError."""
        limit = time.monotonic() + timeout_s
        sizes: dict[Path, int] = {}
        while True:
            now = {path: path.stat().st_size for path in self.files()}
            if len(now) >= count and now == sizes and all(now.values()):
                return [pydicom.dcmread(path) for path in now]
            if time.monotonic() > limit:
                raise AssertionError(f"storescp has {len(now)} of {count} instances\n{self.log()[-2000:]}")
            sizes = now
            time.sleep(0.1)
