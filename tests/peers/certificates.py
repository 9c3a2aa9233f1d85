"""A certificate authority of a test's own, and certificates of every kind that peers show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, as hexadecimal digits."""
        loaded = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return loaded.fingerprint(hashes.SHA256()).hex()


class Authority:
    """Issues certificates into a folder. Elliptic keys: made in no time, and the peers take them."""

    def __init__(self, folder: Path, name: str = "Test CA", *, days: int = 365) -> None:
        """Make the authority's own certificate, in `folder`/ca.pem."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._count = 0
        builder = _builder(self._name, self._name, self._key, timedelta(), timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = folder / "ca.pem"
        _write(self.certificate, _pem(builder.sign(self._key, hashes.SHA256())))

    def issue(
        self,
        name: str,
        *,
        dns: tuple[str, ...] = ("localhost",),
        addresses: tuple[str, ...] = ("127.0.0.1",),
        days: float = 90,
        began_days_ago: float = 1,
        password: str | None = None,
        server_only: bool = False,
    ) -> Pair:
        """A certificate with this common name. `days` from today; less than 0 is expired."""
        self._count += 1
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        began = timedelta(days=1 - days if days < 0 else began_days_ago)
        builder = _builder(subject, self._name, key, began, timedelta(days=days))
        names = [*map(x509.DNSName, dns), *(x509.IPAddress(ip_address(each)) for each in addresses)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        usages += [] if server_only else [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        pair = Pair(
            self.folder / f"{self._count}-{name}.pem",
            self.folder / f"{self._count}-{name}.key",
        )
        _write(pair.certificate, _pem(builder.sign(self._key, hashes.SHA256())))
        locked = (
            serialization.BestAvailableEncryption(password.encode())
            if password
            else serialization.NoEncryption()
        )
        _write(
            pair.key,
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked),
        )
        return pair


def put(pair: Pair, certificate: Path, key: Path) -> None:
    """Renew: put a pair where another one is, as an administrator does, file by file."""
    for source, target in ((pair.certificate, certificate), (pair.key, key)):
        beside = target.with_name(f"{target.name}.new")
        _write(beside, source.read_bytes())
        beside.replace(target)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    began: timedelta,
    lasts: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - began - timedelta(minutes=5))
        .not_valid_after(now + lasts)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes) -> None:
    """For this user alone from the first instant."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
