"""Ask an archive what it has over DICOMweb: QIDO-RS (PS3.18 10.6)."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient

from dicom_node.core.errors import NodeError, QueryRefused
from dicom_node.trust.files import Secret

_SOP_INSTANCE_UID = "00080018"
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class QidoServer:
    """Where an archive answers QIDO-RS."""

    name: str
    url: str
    """Of the DICOMweb service: what stands before /studies."""
    authorization: Secret
    """What the Authorization header says; read for each question, so that a new token needs no restart."""
    timeout_s: float

    def __str__(self) -> str:
        return f"{self.name} ({self.url})"


def instances_by_qido(
    server: QidoServer, wanted: Mapping[tuple[str, str], set[str]]
) -> dict[tuple[str, str], set[str] | NodeError]:
    """What the archive lists for each (study, series) of `wanted`; one that fails takes no other along.

    Raises what `Secret.read` raises.
    """
    client = _client(server)
    found: dict[tuple[str, str], set[str] | NodeError] = {}
    for pair in sorted(wanted):
        try:
            with _errors_of(server):
                found[pair] = _listed(client, *pair)
        except NodeError as error:
            found[pair] = error
    return found


def answers_qido(server: QidoServer) -> None:
    """Ask for a study that nobody has; raises QueryRefused if that is not answered."""
    client = _client(server)
    with _errors_of(server):
        client.search_for_studies(search_filters={"StudyInstanceUID": f"2.25.{uuid.uuid4().int}"}, limit=1)


@contextmanager
def _errors_of(server: QidoServer) -> Iterator[None]:
    """What the library raises, in our words: its own may quote what the server sent."""
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code
        key = "qido_authorization_file" if status in (401, 403) else "qido_url"
        raise QueryRefused(f"{server}: HTTP status {status}; check `{key}`") from error
    except requests.ConnectionError as error:
        # Not DestinationUnreachable: that the web server is away says nothing about C-STORE.
        raise QueryRefused(f"{server}: {type(error).__name__}; check `qido_url`") from error
    except (requests.RequestException, ValueError, TypeError, KeyError, IndexError) as error:
        raise QueryRefused(f"{server}: {type(error).__name__}; check `qido_url`") from error


def _client(server: QidoServer) -> DICOMwebClient:
    session = requests.Session()
    # The environment's proxy and .netrc are not this node's configuration.
    session.trust_env = False
    trusted = ssl.get_default_verify_paths()
    session.verify = trusted.cafile or trusted.capath or True  # the authorities that this machine trusts
    headers = {}
    authorization = server.authorization.read()
    if authorization is not None:
        headers["Authorization"] = authorization
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
