"""Orthanc as a PACS under a test's control."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dicom_node.demo.child import ProgramNotStarted, free_ports
from dicom_node.demo.orthanc import Modality, OrthancServer, OrthancSettings, find_orthanc
from peers.loopback import peer_environment

DICOM_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
"""Where Debian's package orthanc-dicomweb puts the plug-in."""


class Routing(StrEnum):
    """When and what Orthanc forwards by itself; the values name files in `routing/`."""

    PER_INSTANCE = "per_instance"
    STABLE_STUDY = "stable_study"
    STABLE_STUDY_NAIVE = "stable_study_naive"
    STABLE_STUDY_EVERYWHERE = "stable_study_everywhere"


class Orthanc:
    """One Orthanc on free loopback ports, with everything it keeps in `folder`."""

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        *,
        aet: str = "PACS",
        modalities: Mapping[str, tuple[str, str, int]] | None = None,
        routing: Routing | None = None,
        route_to: str = "",
        stable_age_s: int = 1,
        check_called_aet: bool = False,
        closed: bool = False,
        overwrite: bool = False,
        storage_commitment: bool = True,
        tls: tuple[Path, Path, Path] | None = None,
        dicom_web: bool = False,
    ) -> None:
        """Prepare, without starting.

        modalities  name -> (AE title, host, port).
        route_to    which of them `routing` forwards to; what comes from its AE title is its results.
                    STABLE_STUDY_EVERYWHERE takes several, with commas between.
        closed      refuse AE titles that are not among the modalities.
        tls         certificate, key, trusted certificates: TLS both ways, and nothing else.
        dicom_web   answer DICOMweb too; needs the plug-in.
        """
        self.folder = folder
        self.aet = aet
        self._tls = tls is not None
        self._modalities = {
            name: Modality(*where, tls=self._tls) for name, where in (modalities or {}).items()
        }
        self._options: dict[str, Any] = {
            "stable_age_s": stable_age_s,
            "check_called_aet": check_called_aet,
            "closed": closed,
            "overwrite": overwrite,
            "storage_commitment": storage_commitment,
            "tls": tls,
            "plugins": (DICOM_WEB,) if dicom_web else (),
            "lua_scripts": self._rule(routing, route_to) if routing else (),
        }
        self._server: OrthancServer | None = None

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start; the first time on free ports, later on the same ones."""
        program = find_orthanc()
        if program is None:
            raise ProgramNotStarted("Orthanc is not installed; see deploy/install-test-peers.sh")
        if self._server is not None:
            self._server.start()
            return self
        for attempt in range(3):
            http_port, dicom_port = free_ports(2)
            settings = OrthancSettings(self.aet, http_port, dicom_port, self._modalities, **self._options)
            self._server = OrthancServer(program, self.folder, settings, peer_environment())
            try:
                self._server.start()
            except ProgramNotStarted:
                # Somebody else took one of the ports between looking and binding.
                if attempt == 2:
                    raise
            else:
                break
        return self

    def stop(self) -> None:
        """End in order."""
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        """End with kill -9."""
        if self._server is not None:
            self._server.kill()

    def restart(self) -> None:
        """Stop and start on the same folder and ports."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The DICOM port."""
        return self._running.settings.dicom_port

    @property
    def http_port(self) -> int:
        """The REST port."""
        return self._running.settings.http_port

    @property
    def pid(self) -> int:
        """The process, while it runs."""
        child = self._running.child
        assert child is not None, "Orthanc does not run"
        return child.pid

    def log(self) -> str:
        """Everything it printed."""
        return (self.folder / "orthanc.log").read_text(errors="replace")

    # -- what it holds ------------------------------------------------------------------------

    def upload(self, path: Path) -> str:
        """Put one file in over REST; return Orthanc's id of the instance."""
        return str(json.loads(self._running.request("POST", "/instances", path.read_bytes()))["ID"])

    def delete(self, instance: str) -> None:
        """Remove one instance, by Orthanc's id."""
        self._running.request("DELETE", f"/instances/{instance}")

    def get(self, path: str) -> Any:
        """One REST answer, decoded."""
        return json.loads(self._running.request("GET", path))

    def post(self, path: str, body: object) -> Any:
        """Post JSON, return the decoded answer."""
        return json.loads(self._running.request("POST", path, json.dumps(body).encode()))

    def instances(self) -> list[str]:
        """Orthanc's ids of all instances."""
        return list(self.get("/instances"))

    def studies(self) -> list[str]:
        """Orthanc's ids of all studies."""
        return list(self.get("/studies"))

    def series(self, study_instance_uid: str | None = None) -> list[dict[str, Any]]:
        """Orthanc's records of all series, or of one study: `MainDicomTags`, `Instances` and so on."""
        records = list(self.get("/series?expand"))
        if study_instance_uid is None:
            return records
        wanted = {each["ID"] for each in self.get("/studies?expand") if _uid(each) == study_instance_uid}
        return [each for each in records if each["ParentStudy"] in wanted]

    def sop_instance_uids(self, study_instance_uid: str | None = None) -> list[str]:
        """SOP Instance UIDs of one study or of everything, sorted."""
        wanted = {instance for each in self.series(study_instance_uid) for instance in each["Instances"]}
        return sorted(
            each["MainDicomTags"]["SOPInstanceUID"]
            for each in self.get("/instances?expand")
            if each["ID"] in wanted
        )

    def instance_file(self, instance: str) -> bytes:
        """The DICOM file of one instance, by Orthanc's id, as it was received."""
        return self._running.request("GET", f"/instances/{instance}/file")

    def file_of(self, sop_instance_uid: str) -> bytes:
        """The DICOM file of one instance, by its UID; raises KeyError."""
        return self._running.instance_bytes(sop_instance_uid)

    def tags(self, instance: str) -> dict[str, Any]:
        """Keyword -> value of one instance as Orthanc reads it."""
        return dict(self.get(f"/instances/{instance}/simplified-tags"))

    def find(self, level: str, **query: str) -> list[dict[str, Any]]:
        """Orthanc's records at a level (`Study`, `Series`, `Instance`) that match keyword=value."""
        return list(self.post("/tools/find", {"Level": level, "Query": query, "Expand": True}))

    def wait_for(self, is_there: Callable[[Orthanc], bool], timeout_s: float = 20.0) -> None:
        """Return once `is_there(self)`; raises AssertionError with what it holds instead."""
        limit = time.monotonic() + timeout_s
        while not is_there(self):
            if time.monotonic() > limit:
                held = self.sop_instance_uids()
                raise AssertionError(f"not in {timeout_s} s; Orthanc holds {held}\n{self.log()[-2000:]}")
            time.sleep(0.1)

    def wait_for_count(self, count: int, timeout_s: float = 20.0) -> list[str]:
        """Return the SOP Instance UIDs once there are at least `count`."""
        self.wait_for(lambda pacs: len(pacs.instances()) >= count, timeout_s)
        return self.sop_instance_uids()

    # -- what it sends ------------------------------------------------------------------------

    def set_modality(self, name: str, aet: str, host: str, port: int) -> None:
        """Make another application entity known while Orthanc runs; a restart forgets it."""
        entry = {
            "AET": aet,
            "Host": host,
            "Port": port,
            "AllowStorageCommitment": True,
            "UseDicomTls": self._tls,
        }
        self._running.request("PUT", f"/modalities/{name}", json.dumps(entry).encode())

    def echo(self, modality: str) -> None:
        """C-ECHO; raises urllib.error.HTTPError if the modality does not answer."""
        self._running.request("POST", f"/modalities/{modality}/echo", b"{}")

    def route(self, modality: str, *resources: str, storage_commitment: bool = False) -> dict[str, Any]:
        """Send instances, series or studies (Orthanc's ids) and wait; raises if one was not taken."""
        body = {"Resources": resources, "Synchronous": True, "StorageCommitment": storage_commitment}
        return dict(self.post(f"/modalities/{modality}/store", body))

    # -----------------------------------------------------------------------------------------

    @property
    def _running(self) -> OrthancServer:
        assert self._server is not None, "Orthanc was never started"
        return self._server

    def _rule(self, routing: Routing, route_to: str) -> tuple[Path, ...]:
        known = self._modalities[route_to.split(",")[0]]
        self.folder.mkdir(parents=True, exist_ok=True)
        names = self.folder / "route_to.lua"
        names.write_text(f"ROUTE_TO = '{route_to}'\nOWN_AET = '{known.aet}'\n")
        return names, Path(__file__).parent / "routing" / f"{routing}.lua"


def _uid(study: dict[str, Any]) -> str:
    return str(study["MainDicomTags"]["StudyInstanceUID"])
