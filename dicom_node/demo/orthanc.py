"""An Orthanc of our own on this machine: its configuration, its life, its REST interface."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicom_node.demo.child import Child, is_listening

_USUAL_PLACES = ("/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc")
"""Not on the path of an ordinary user."""


@dataclass(frozen=True, slots=True)
class Modality:
    """Another application entity that Orthanc knows."""

    aet: str
    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True, slots=True)
class OrthancSettings:
    """What can differ from one Orthanc of ours to another."""

    aet: str
    http_port: int
    dicom_port: int
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    closed: bool = False
    """True: only `modalities` may associate, each from its own host."""
    check_called_aet: bool = False
    overwrite: bool = False
    """True: an instance that comes again replaces the one that is there."""
    storage_commitment: bool = True
    """May the modalities ask for storage commitment?"""
    stable_age_s: int = 60
    """Seconds without a new instance before a study counts as stable; at least 1."""
    lua_scripts: tuple[Path, ...] = ()
    plugins: tuple[Path, ...] = ()
    tls: tuple[Path, Path, Path] | None = None
    """Certificate, key and trusted certificates: its port then takes DICOM over TLS only."""


def find_orthanc() -> Path | None:
    """Where Orthanc is installed, if it is."""
    found = shutil.which("Orthanc") or next((place for place in _USUAL_PLACES if Path(place).exists()), None)
    return Path(found) if found else None


def orthanc_version(program: Path) -> str:
    """Version as Orthanc prints it, such as `1.10.1`."""
    run = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=20)
    words = run.stdout.split()
    return words[1] if len(words) > 1 else "of unknown version"


def orthanc_configuration(folder: Path, settings: OrthancSettings) -> dict[str, Any]:
    """The configuration file, as Orthanc's manual names its keys; everything is kept under `folder`."""
    welcome = not settings.closed
    return {
        "Name": settings.aet,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": settings.http_port,
        # Orthanc then serves HTTP on loopback only. The DICOM port has no such switch: see `closed`.
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": settings.aet,
        "DicomPort": settings.dicom_port,
        "DicomCheckCalledAet": settings.check_called_aet,
        "DicomCheckModalityHost": settings.closed,
        "DicomModalities": {
            name: {
                "AET": modality.aet,
                "Host": modality.host,
                "Port": modality.port,
                "AllowStorageCommitment": settings.storage_commitment,
                "UseDicomTls": modality.tls,
            }
            for name, modality in settings.modalities.items()
        },
        "DicomAlwaysAllowEcho": welcome,
        "DicomAlwaysAllowStore": welcome,
        "DicomAlwaysAllowFind": welcome,
        "DicomAlwaysAllowGet": welcome,
        "DicomAlwaysAllowMove": welcome,
        "OverwriteInstances": settings.overwrite,
        "StableAge": settings.stable_age_s,
        "LuaScripts": [str(script) for script in settings.lua_scripts],
        "DefaultEncoding": "Utf8",
        "DicomScuTimeout": 10,
        # An association kept open after the last instance hides a node that is gone.
        "DicomAssociationCloseDelay": 0,
        "SyncStorageArea": False,
        "HttpThreadsCount": 8,
        "SaveJobs": False,
        "Plugins": [str(plugin) for plugin in settings.plugins],
        **_tls(settings.tls),
    }


def _tls(files: tuple[Path, Path, Path] | None) -> dict[str, Any]:
    if files is None:
        return {}
    certificate, key, trusted = files
    return {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(certificate),
        "DicomTlsPrivateKey": str(key),
        "DicomTlsTrustedCertificates": str(trusted),
    }


class OrthancServer:
    """One Orthanc on one folder and two ports; it can be stopped and started again."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        settings: OrthancSettings,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare, without starting."""
        self.folder = folder
        self.settings = settings
        self._program = program
        # Without it DCMTK's network code, which Orthanc uses, waits some 45 ms for every instance.
        self._environment = {"TCP_NODELAY": "1", **(environment or {})}
        self._child: Child | None = None
        # Loopback is never reached through a proxy, whatever the environment says.
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def child(self) -> Child | None:
        """The running program, if it runs."""
        return self._child

    def start(self) -> None:
        """Start, and return when both ports answer; raises ProgramNotStarted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(orthanc_configuration(self.folder, self.settings), indent=2))
        child = Child([str(self._program), str(path)], self.folder / "orthanc.log", self._environment)
        child.wait_until(self._answers)
        self._child = child

    def stop(self) -> None:
        """End in order; does nothing if it does not run."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """End as a power cut would; does nothing if it does not run."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One REST request; raises urllib.error.HTTPError where Orthanc says no."""
        url = f"http://127.0.0.1:{self.settings.http_port}{path}"
        asked = urllib.request.Request(url, data=body, method=method)
        with self._http.open(asked, timeout=30) as answer:
            return bytes(answer.read())

    def instance_bytes(self, sop_instance_uid: str) -> bytes:
        """The DICOM file of one instance as Orthanc keeps it; raises KeyError if it does not."""
        found = json.loads(self.request("POST", "/tools/lookup", sop_instance_uid.encode()))
        for each in found:
            if each["Type"] == "Instance":
                return self.request("GET", f"/instances/{each['ID']}/file")
        raise KeyError(sop_instance_uid)

    def _answers(self) -> bool:
        try:
            self.request("GET", "/system")
        except (urllib.error.URLError, OSError):
            return False
        return is_listening(self.settings.dicom_port)
