"""Who looks at expiry: own certificates, trusted ones, and those that peers show."""

from __future__ import annotations

import fcntl
import json
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from dicom_node.core.errors import NodeError
from dicom_node.trust.certificates import (
    Certificate,
    Expiry,
    Standing,
    expiry_of,
    read_certificates,
    standing_of,
)
from dicom_node.trust.contexts import TlsFiles

log = logging.getLogger(__name__)

_FORGET = timedelta(days=60)
_SAY_AGAIN = timedelta(days=1)
_MOST_PEERS = 1000


def expiries(files: Iterable[TlsFiles], now: datetime, warn_days: int) -> list[Expiry]:
    """Every certificate in these files, the first to end first. Files that cannot be read are left out."""
    found: dict[tuple[Path, str], Expiry] = {}
    for each in files:
        for path, use in ((each.certificate, "own certificate"), (each.trust, "trusted certificate")):
            if path is None:
                continue
            with suppress(NodeError):
                for certificate in read_certificates(path):
                    expiry = expiry_of(
                        certificate, use=f"{each.name}: {use}", path=path, now=now, warn_days=warn_days
                    )
                    found.setdefault((path, certificate.fingerprint), expiry)
    return sorted(found.values(), key=lambda expiry: expiry.ends)


def report(found: Iterable[Expiry]) -> None:
    """Log what ends soon as a warning, and what has ended as an error."""
    for expiry in found:
        if expiry.standing is Standing.GOOD:
            continue
        soon = expiry.standing is Standing.ENDS_SOON
        log.log(
            logging.WARNING if soon else logging.ERROR,
            "certificate expires soon" if soon else "certificate is not valid",
            extra={
                "action": f"certificate-{expiry.standing.value}",
                "use": expiry.use,
                "path": expiry.path and str(expiry.path),
                "fingerprint": expiry.fingerprint,
                "ends": expiry.ends.isoformat(timespec="seconds"),
                "days": expiry.days_left,
            },
        )


class PeerCertificates:
    """The certificates that peers have shown, so that `emode status` can warn of their ends too.

    Kept in a small file that nothing depends on: without it, it is filled again as peers call.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime], warn_days: int) -> None:
        """Prepare; a file of an earlier run is read on."""
        self._path = path
        self._clock = clock
        self._warn_days = warn_days
        self._lock = threading.Lock()
        self._known = _read(path)

    def see(self, peer: str, certificate: Certificate) -> None:
        """A peer was let in with this certificate. Warns of its end once a day."""
        now = self._clock()
        with self._lock:
            before = self._known.get(peer)
            if before is None and len(self._known) >= _MOST_PEERS:
                return  # a node that lets anybody call must not note everybody
            if (
                before is not None
                and before["fingerprint"] == certificate.fingerprint
                and now - datetime.fromisoformat(before["seen"]) < _SAY_AGAIN
            ):
                return
            self._note(
                peer,
                {
                    "fingerprint": certificate.fingerprint,
                    "ends": certificate.not_after.isoformat(),
                    "seen": now.isoformat(),
                },
            )
        report([expiry_of(certificate, use=f"peer {peer}", path=None, now=now, warn_days=self._warn_days)])

    def _note(self, peer: str, entry: dict[str, str]) -> None:
        """Into what is on file by now: other processes take associations too."""
        self._known[peer] = entry
        beside = self._path.with_suffix(".new")
        try:
            with self._path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._known = _read(self._path) | {peer: entry}
                beside.write_text(json.dumps(self._known))
                beside.replace(self._path)
        except OSError as error:  # a full disk must not keep a peer out
            log.warning(
                "peer certificates not noted",
                extra={"action": "peer-certificates-not-noted", "code": type(error).__name__},
            )


def peer_expiries(path: Path, now: datetime, warn_days: int) -> list[Expiry]:
    """What `PeerCertificates` noted: the certificate each peer showed last, the first to end first."""
    found = []
    for peer, entry in _read(path).items():
        if now - datetime.fromisoformat(entry["seen"]) > _FORGET:
            continue
        ends = datetime.fromisoformat(entry["ends"])
        standing = standing_of(ends, now, warn_days)
        found.append(Expiry(f"peer {peer}", None, entry["fingerprint"], ends, (ends - now).days, standing))
    return sorted(found, key=lambda expiry: expiry.ends)


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The file, or nothing where it is missing or damaged."""
    try:
        entries = json.loads(path.read_text())
        for entry in entries.values():
            datetime.fromisoformat(entry["seen"])
            datetime.fromisoformat(entry["ends"])
            str(entry["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return dict(entries)
