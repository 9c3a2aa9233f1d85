"""Names on the wire and names we make: AE titles, UIDs, digests."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from ipaddress import ip_address

from dicom_node.core.errors import InvalidUid

IMPLEMENTATION_VERSION_NAME = "EMODE_0_1"
"""(0002,0013), at most 16 characters."""

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_UID_OF_THE_WIRE = re.compile(r"[0-9]+(\.[0-9]+)+")
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")

# A fixed name space of this product, so that the same inputs give the same UID on every node.
_NAMESPACE = uuid.UUID("6f0f3c1e-5b1a-5d0e-9c55-2f6a4e0e7d11")

Fact = str | int | bool | None | list["Fact"] | dict[str, "Fact"]


def is_ae_title(title: str) -> bool:
    """Is this a legal AE title: 1 to 16 printable ASCII characters, no backslash, not only spaces?

    PS3.5 6.2, VR AE.
    """
    return bool(_AE_TITLE.fullmatch(title)) and title.strip(" ") != ""


def is_loopback(host: str) -> bool:
    """Does only this machine reach what listens on `host`? Names but localhost count as no."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_uid(text: str) -> bool:
    """Is this a UID as PS3.5 9.1 wants it: digits and dots, no leading zeros, at most 64 characters?"""
    return len(text) <= 64 and bool(_UID.fullmatch(text))


def check_received_uid(name: str, text: str) -> str:
    """Return `text` if it can serve as a UID, else raise InvalidUid.

    Leading zeros in a component are forbidden by PS3.5 9.1 yet sent by old scanners; they do no harm
    here, because no path or query is ever built from a received UID, so they pass.
    """
    if len(text) > 64 or not _UID_OF_THE_WIRE.fullmatch(text):
        # Only what consists of digits and dots is quoted: anything may stand where a UID belongs, a name too.
        shown = repr(text[:80]) if re.fullmatch(r"[0-9.]*", text) else "not made of digits and dots"
        raise InvalidUid(f"{name} is {shown}; expected digits and dots, at most 64 characters")
    return text


def derive_uid(role: str, facts: Mapping[str, Fact]) -> str:
    """Make the UID that belongs to these facts: the same facts always give the same UID.

    role   what the UID is for ("sop-instance", "series"), so that two roles never share one.
    facts  everything that changes the content named by it, and nothing else.

    2.25 and the decimal value of a name-based UUID (PS3.5 B.2, RFC 9562 version 5).
    """
    canonical = json.dumps({"role": role, **facts}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"2.25.{uuid.uuid5(_NAMESPACE, canonical).int}"


IMPLEMENTATION_CLASS_UID = derive_uid("implementation-class", {"product": "emode"})
"""(0002,0012). PS3.5 B.2 would rather see a registered root here; replace it when the product has one."""
