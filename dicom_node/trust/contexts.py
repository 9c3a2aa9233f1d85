"""TLS as PS3.15 Annex B asks for it: contexts by profile, made from files that were looked at first."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from dicom_node.core.errors import CertificateUnusable
from dicom_node.trust.certificates import Standing, check_key, expiry_of, read_certificates
from dicom_node.trust.files import Secret


class Profile(StrEnum):
    """Secure transport connection profiles; both take TLS 1.2 and 1.3, and prefer 1.3."""

    BCP195 = "bcp195"
    """PS3.15 B.12: BCP 195 (RFC 8996, RFC 9325)."""
    MODIFIED = "bcp195-modified"
    """PS3.15 B.13: the same with a shorter list of ciphers."""


_CIPHERS = {
    # RFC 9325 4.2: forward secrecy and authenticated encryption. DHE is left out: its parameters cannot be
    # seen from here, and B.13 forbids it then.
    Profile.BCP195: "ECDHE+AESGCM:ECDHE+CHACHA20",
    Profile.MODIFIED: "ECDHE+AESGCM",
}
"""For TLS 1.2. All suites of TLS 1.3 fit both profiles."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where one identity and those it trusts are kept.

    name         the configuration's, for messages: `listen.tls`
    certificate  PEM: our own certificate, then intermediates; None for a client without one
    key          PEM: its private key
    trust        PEM: certificate authorities, or single certificates, that we believe
    """

    name: str
    certificate: Path | None
    key: Path | None
    password: Secret
    trust: Path
    profile: Profile = Profile.BCP195

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file, for whoever watches them."""
        every = (self.certificate, self.key, self.password.file, self.trust)
        return tuple(path for path in every if path is not None)


def server_context(files: TlsFiles, now: datetime, *, require_certificate: bool = True) -> ssl.SSLContext:
    """For those who call us. Raises as `client_context`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, files, now)
    # Without the demand an unknown certificate would still be refused, and none be taken.
    context.verify_mode = ssl.CERT_REQUIRED if require_certificate else ssl.CERT_OPTIONAL
    # No resumed sessions: each connection proves anew who it is.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    return context


def client_context(files: TlsFiles, now: datetime, *, check_host: bool = True) -> ssl.SSLContext:
    """For those we call; their chain is always verified, their host name if `check_host`.

    Raises SecretExposed, SecretMissing, or CertificateUnusable with the file, the fact and the next step.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files, now)
    context.check_hostname = check_host
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(side: int, files: TlsFiles, now: datetime) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS[files.profile])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Who is in the trust file is trusted, also an intermediate, or one device's own certificate.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusted = read_certificates(files.trust)
    try:
        context.load_verify_locations(cadata="".join(each.pem for each in trusted))
    except ssl.SSLError as error:
        raise CertificateUnusable(f"{files.trust}: not taken by OpenSSL ({error.reason})") from None
    if files.certificate is not None and files.key is not None:
        _load_identity(context, files.certificate, files.key, files.password, now)
    return context


def _load_identity(
    context: ssl.SSLContext, certificate: Path, key: Path, password: Secret, now: datetime
) -> None:
    own = read_certificates(certificate)[0]
    expiry = expiry_of(own, use="", path=certificate, now=now, warn_days=0)
    if expiry.standing in (Standing.EXPIRED, Standing.NOT_YET):
        raise CertificateUnusable(f"{certificate}: {expiry.words}")
    check_key(certificate, key, password)
    try:
        # An empty password, because without any OpenSSL would ask the terminal.
        context.load_cert_chain(certificate, key, password=password.read() or "")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise CertificateUnusable(
            f"{certificate}: not taken by OpenSSL ({reason}); have it renewed"
        ) from None
