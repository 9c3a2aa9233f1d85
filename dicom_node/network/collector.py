"""A TLS connection to the collector of audit messages."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from dicom_node.core.errors import NodeError
from dicom_node.trust.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Collector:
    """Where audit messages go, and how both sides prove who they are."""

    host: str
    port: int
    server_name: str
    credentials: Credentials
    timeout_s: float

    def connect(self) -> ssl.SSLSocket:
        """Connect. Raises OSError, also for a certificate that is not trusted or a file that is not there."""
        try:
            context = self.credentials.context()
        except NodeError as error:
            raise OSError(0, error.code) from error
        plain = socket.create_connection((self.host, self.port), self.timeout_s)
        try:
            return context.wrap_socket(plain, server_hostname=self.server_name)
        except BaseException:
            plain.close()
            raise
