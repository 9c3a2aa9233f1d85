"""A TLS connection to the collector of audit messages."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Collector:
    """Where audit messages go, and how both sides prove who they are (BCP 195; TLS 1.2 at least)."""

    host: str
    port: int
    trust: Path
    certificate: Path | None
    key: Path | None
    timeout_s: float

    def connect(self) -> ssl.SSLSocket:
        """Connect. Raises OSError, also for a certificate that is not trusted or not there.

        Files are read anew each time, so that a renewed certificate needs no restart.
        """
        context = ssl.create_default_context(cafile=str(self.trust))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        plain = socket.create_connection((self.host, self.port), self.timeout_s)
        try:
            return context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
