"""Ask an archive what it has over DICOMweb: QIDO-RS (PS3.18 10.6)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient

from dicom_node.core.errors import NodeError, QueryRefused

_SOP_INSTANCE_UID = "00080018"
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class QidoServer:
    """Where an archive answers QIDO-RS."""

    name: str
    url: str
    """Of the DICOMweb service: what stands before /studies."""
    authorization_file: Path | None
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.name} ({self.url})"


def instances_by_qido(
    server: QidoServer, series: set[tuple[str, str]]
) -> dict[tuple[str, str], set[str] | NodeError]:
    """What the archive lists for each (study, series); one that fails does not take the others along.

    Raises QueryRefused if the authorization file cannot be read.
    """
    client = _client(server)
    found: dict[tuple[str, str], set[str] | NodeError] = {}
    for pair in sorted(series):
        try:
            found[pair] = _listed(client, *pair)
        except requests.HTTPError as error:
            found[pair] = QueryRefused(f"{server}: HTTP status {error.response.status_code}{_hint(error)}")
        except (requests.RequestException, ValueError, TypeError, KeyError, IndexError) as error:
            found[pair] = QueryRefused(f"{server}: {type(error).__name__}; check `qido_url`")
    return found


def _client(server: QidoServer) -> DICOMwebClient:
    session = requests.Session()
    # The environment's proxy and .netrc are not this node's configuration.
    session.trust_env = False
    trusted = ssl.get_default_verify_paths()
    session.verify = trusted.cafile or trusted.capath or True  # the authorities that this machine trusts
    headers = {}
    if server.authorization_file is not None:
        try:
            headers["Authorization"] = server.authorization_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise QueryRefused(f"{server}: {server.authorization_file}: {type(error).__name__}") from error
    client = DICOMwebClient(
        server.url.rstrip("/"), session=session, headers=headers, timeout=server.timeout_s
    )
    client.host = urlsplit(server.url).netloc.rpartition("@")[2]  # the library leaves the port out of "Host"
    client.set_http_retry_params(retry=False)  # trying again is the queue's business
    return client


def _listed(client: DICOMwebClient, study: str, series: str) -> set[str]:
    found: set[str] = set()
    while True:
        page = client.search_for_instances(study, series, limit=_PAGE, offset=len(found))
        here = {str(each[_SOP_INSTANCE_UID]["Value"][0]) for each in page}
        # A server that knows no offset gives the same page again.
        if here <= found:
            return found
        found |= here


def _hint(error: requests.HTTPError) -> str:
    if error.response.status_code in (401, 403):
        return "; check `qido_authorization_file`"
    return "; check `qido_url`"
