"""rsyslogd with TLS: a collector of audit messages, as hospitals run it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from dicom_node.demo.child import free_ports, is_listening

_PROGRAM = ("rsyslogd", "/usr/sbin/rsyslogd", "/usr/local/sbin/rsyslogd")


def find_rsyslogd() -> str | None:
    """The program, if it is installed with its TLS module."""
    program = next((found for name in _PROGRAM if (found := shutil.which(name))), None)
    module = any(Path("/usr/lib").glob("**/rsyslog/lmnsd_gtls.so"))
    return program if program and module else None


class Rsyslog:
    """One collector; it can be stopped, killed and started again on the same port."""

    def __init__(self, folder: Path, *, ca: Path, certificate: Path, key: Path, name: str) -> None:
        """Prepare in `folder`.

        ca    whose certificates it believes
        name  what a sender's certificate has to be for
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = free_ports(1)[0]
        self.messages = folder / "messages"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "rsyslog.conf").write_text(
            f"""
global(workDirectory="{folder}" maxMessageSize="64k"
       defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1"
       StreamDriver.AuthMode="x509/name" PermittedPeer=["{name}"])
input(type="imtcp" port="{self.port}" address="127.0.0.1")
template(name="whole" type="string" string="%pri% %hostname% %app-name% %msgid% %structured-data% %msg%\\n")
action(type="omfile" file="{self.messages}" template="whole" asyncWriting="off")
"""
        )

    def start(self) -> None:
        """Start, and wait until it listens."""
        program = find_rsyslogd()
        assert program is not None
        pid = self._folder / "pid"
        pid.unlink(missing_ok=True)
        command = [program, "-n", "-f", str(self._folder / "rsyslog.conf"), "-i", str(pid)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not is_listening(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self._folder / "log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def lines(self) -> list[str]:
        """What it has written."""
        return self.messages.read_text(encoding="utf-8").splitlines() if self.messages.exists() else []
