"""What a certificate says: whose it is, until when, and by which name we know it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from dicom_node.core.errors import CertificateUnusable
from dicom_node.trust.files import Secret, check_private

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """The facts of one certificate."""

    subject: str
    """RFC 4514, for people. Never logged: it may name a person."""
    fingerprint: str
    """SHA-256 of the DER form, 64 lower-case hexadecimal digits."""
    not_before: datetime
    not_after: datetime
    common_names: tuple[str, ...]
    dns_names: tuple[str, ...]
    pem: str


class Standing(StrEnum):
    """How a certificate stands with time."""

    GOOD = "good"
    ENDS_SOON = "ends-soon"
    EXPIRED = "expired"
    NOT_YET = "not-yet-valid"


@dataclass(frozen=True, slots=True)
class Expiry:
    """One certificate in use, and how long it will be."""

    use: str
    """What it is for: `listen.tls.certificate`, `peer US1`."""
    path: Path | None
    """The file, or None for a certificate that a peer showed."""
    fingerprint: str
    ends: datetime
    days_left: int
    standing: Standing

    @property
    def words(self) -> str:
        """For people: the fact and the next step."""
        until = f"{self.ends:%Y-%m-%d %H:%MZ}"
        if self.standing is Standing.EXPIRED:
            return f"EXPIRED on {until}; TLS fails until it is replaced"
        if self.standing is Standing.NOT_YET:
            return "not valid yet; check the clocks of this machine and of whoever issued it"
        if self.standing is Standing.ENDS_SOON:
            return f"expires on {until}, in {self.days_left} day(s); have it renewed"
        return f"valid until {until}, {self.days_left} days"


def certificate_of(der: bytes) -> Certificate:
    """Read one certificate as a peer shows it; raises CertificateUnusable."""
    try:
        return _facts(x509.load_der_x509_certificate(der))
    except ValueError:
        raise CertificateUnusable("the peer's certificate cannot be read") from None


def read_certificates(path: Path) -> list[Certificate]:
    """All certificates of a PEM file, in its order; raises CertificateUnusable, and if there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CertificateUnusable(f"{path}: {error.strerror}; create it, or correct the path") from None
    if not content.strip():
        raise CertificateUnusable(f"{path}: is empty; put certificates in PEM form into it")
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise CertificateUnusable(
            f"{path}: holds no certificate in PEM form; convert it with: "
            f"openssl x509 -in {path} -out {path.with_suffix('.pem')}"
        )
    try:
        return [_facts(one) for one in x509.load_pem_x509_certificates(content)]
    except ValueError:
        raise CertificateUnusable(f"{path}: a certificate in it is damaged; write the file anew") from None


def check_key(certificate: Path, key: Path, password: Secret) -> None:
    """Make sure that a private key is ours alone, can be read, and belongs to a certificate.

    Raises SecretExposed, SecretMissing, CertificateUnusable.
    """
    check_private(key)
    given = password.read()
    first = x509.load_pem_x509_certificate(read_certificates(certificate)[0].pem.encode())
    try:
        private = load_pem_private_key(key.read_bytes(), given.encode() if given else None)
    except TypeError:
        asked = "takes no password; remove key_password_file or key_password_env"
        if given is None:
            asked = "is encrypted; set key_password_file or key_password_env"
        raise CertificateUnusable(f"{key}: the key {asked}") from None
    except OSError as error:
        raise CertificateUnusable(f"{key}: {error.strerror}") from None
    except Exception:  # noqa: BLE001 - ValueError, UnsupportedAlgorithm, whatever a damaged file brings
        fact = "the password is wrong, or the file is damaged" if given else "is no private key in PEM form"
        raise CertificateUnusable(f"{key}: {fact}; write it anew with its certificate") from None
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*spki) != first.public_key().public_bytes(*spki):
        raise CertificateUnusable(
            f"{key}: does not belong to the first certificate of {certificate}; "
            "put both from the same renewal, our own certificate first"
        )


def expiry_of(
    certificate: Certificate, *, use: str, path: Path | None, now: datetime, warn_days: int
) -> Expiry:
    """How a certificate stands at `now`; `warn_days` before its end it counts as ending soon."""
    standing = standing_of(certificate.not_after, now, warn_days)
    if standing is not Standing.EXPIRED and certificate.not_before > now:
        standing = Standing.NOT_YET
    left = certificate.not_after - now
    return Expiry(use, path, certificate.fingerprint, certificate.not_after, left.days, standing)


def standing_of(ends: datetime, now: datetime, warn_days: int) -> Standing:
    """How something that ends at `ends` stands at `now`."""
    if ends <= now:
        return Standing.EXPIRED
    return Standing.ENDS_SOON if ends - now <= timedelta(days=warn_days) else Standing.GOOD


def fingerprint_from(text: str) -> str:
    """A SHA-256 fingerprint as people write it (AB:CD:..., with or without sha256: before it).

    Raises ValueError.
    """
    match = _FINGERPRINT.fullmatch(
        text.strip().lower().removeprefix("sha256 fingerprint=").removeprefix("sha256:").replace(":", "")
    )
    if match is None:
        raise ValueError(
            "not a SHA-256 fingerprint (64 hexadecimal digits, colons allowed); "
            "openssl x509 -noout -fingerprint -sha256 -in FILE prints it"
        )
    return match[0]


@dataclass(frozen=True, slots=True)
class CertificateName:
    """One way to say which certificate is meant: sha256, dns or cn, and the value."""

    kind: str
    value: str

    @classmethod
    def parse(cls, text: str) -> CertificateName:
        """Read `sha256:AB:CD...`, a bare fingerprint, `dns:us1.hospital.example` or `cn:US1`.

        Raises ValueError.
        """
        kind, _, value = text.strip().partition(":")
        if kind in ("dns", "cn"):
            if not value.strip():
                raise ValueError(f"a name must follow {kind}:")
            return cls(kind, value.strip().lower() if kind == "dns" else value.strip())
        return cls("sha256", fingerprint_from(text))

    def names(self, certificate: Certificate) -> bool:
        """Is this certificate meant? No wildcards: a name stands for one device."""
        if self.kind == "sha256":
            return certificate.fingerprint == self.value
        if self.kind == "dns":
            return self.value in certificate.dns_names
        return certificate.common_names == (self.value,)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def _facts(certificate: x509.Certificate) -> Certificate:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        dns = ()
    return Certificate(
        subject=certificate.subject.rfc4514_string(),
        fingerprint=certificate.fingerprint(SHA256()).hex(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        common_names=tuple(
            str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ),
        dns_names=dns,
        pem=certificate.public_bytes(Encoding.PEM).decode(),
    )
