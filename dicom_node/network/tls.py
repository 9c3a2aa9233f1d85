"""TLS on a connection: why it failed in words of ours, what was agreed, and how we call."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from enum import StrEnum

from dicom_node.trust.certificates import Certificate, certificate_of
from dicom_node.trust.credentials import Credentials

_VERIFY = {
    # X509_V_ERR_* of OpenSSL; see openssl-verification-options(1).
    2: "unknown-ca",
    7: "bad-signature",
    9: "not-yet-valid",
    10: "expired",
    18: "unknown-ca",
    19: "unknown-ca",
    20: "unknown-ca",
    21: "unknown-ca",
    23: "revoked",
    24: "unknown-ca",
    26: "wrong-purpose",
    62: "wrong-host",
    64: "wrong-host",
    66: "weak-key",
    67: "weak-key",
    68: "weak-signature",
}

_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-certificate",
    "WRONG_VERSION_NUMBER": "no-tls",
    "HTTP_REQUEST": "no-tls",
    "HTTPS_PROXY_REQUEST": "no-tls",
    "UNEXPECTED_MESSAGE": "no-tls",
    "BAD_RECORD_TYPE": "no-tls",
    "PACKET_LENGTH_TOO_LONG": "no-tls",
    "RECORD_LAYER_FAILURE": "no-tls",
    "UNSUPPORTED_PROTOCOL": "old-protocol",
    "VERSION_TOO_LOW": "old-protocol",
    "NO_SHARED_CIPHER": "no-shared-cipher",
    "EE_KEY_TOO_SMALL": "weak-key",
    "UNEXPECTED_EOF_WHILE_READING": "closed",
    # What the other side says of us, as TLS alerts.
    "TLSV1_ALERT_UNKNOWN_CA": "ours-unknown-ca",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "ours-expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "ours-revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "ours-distrusted",
    "SSLV3_ALERT_BAD_CERTIFICATE": "ours-distrusted",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "ours-distrusted",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "ours-missing",
    "SSLV3_ALERT_NO_CERTIFICATE": "ours-missing",
    "TLSV1_ALERT_ACCESS_DENIED": "ours-denied",
    "TLSV1_ALERT_DECRYPT_ERROR": "ours-distrusted",
    "TLSV1_ALERT_PROTOCOL_VERSION": "old-protocol",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "refused",
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": "no-shared-cipher",
}

_WORDS = {
    "unknown-ca": "its certificate comes from nobody in our trust file; add its CA there",
    "bad-signature": "its certificate has a bad signature; have it issued anew",
    "not-yet-valid": "its certificate is not valid yet; check the clocks on both sides",
    "expired": "its certificate has expired; have its administrator renew it",
    "revoked": "its certificate was revoked; have its administrator replace it",
    "wrong-purpose": "its certificate is not meant for this (extended key usage); have it issued "
    "for both server and client",
    "wrong-host": "its certificate is for another host; set tls.server_name to a name in it, "
    "or tls.verify: fingerprint",
    "wrong-fingerprint": "its certificate is none of tls.fingerprints; if it was renewed, add the new one",
    "weak-key": "its key is too short (RSA needs 2048 bits); have its administrator renew it",
    "weak-signature": "its certificate is signed with a broken hash (SHA-1, MD5); have it issued anew",
    "untrusted": "its certificate cannot be verified; look at its chain with openssl s_client",
    "no-certificate": "it showed no certificate",
    "no-tls": "it does not speak TLS on this port; check the port, or remove `tls` here",
    "old-protocol": "it offers nothing newer than TLS 1.1; TLS 1.2 is the least",
    "no-shared-cipher": "no cipher suits both; it has to offer ECDHE with AES-GCM",
    "closed": "it closed the connection during the TLS handshake; its log says why "
    "(often: it does not trust our certificate)",
    "timeout": "it did not finish the TLS handshake in time; is this a TLS port?",
    "ours-unknown-ca": "it does not know who issued our certificate; have our CA added to its trusted ones",
    "ours-expired": "it says that our certificate has expired; renew it",
    "ours-revoked": "it says that our certificate was revoked; replace it",
    "ours-distrusted": "it does not accept our certificate; its log says why",
    "ours-missing": "it asks for our certificate; set tls.certificate and tls.key",
    "ours-denied": "it knows our certificate and denies access; ask its administrator",
    "refused": "it refused the handshake: our certificate, or no cipher in common; its log says which",
    "handshake": "the TLS handshake failed; its log may say why",
}
"""What a code means when we are the client: the fact and the next step."""


def reason_of(error: OSError) -> str:
    """A code of ours for a failed handshake or a broken TLS connection.

    Never the library's text, which may quote names out of a certificate.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY.get(error.verify_code, "untrusted")
    if isinstance(error, ssl.SSLZeroReturnError | ssl.SSLEOFError | ConnectionError):
        return "closed"
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(error.reason or "", "handshake")
    if isinstance(error, TimeoutError):
        return "timeout"
    return "closed"


def server_code(error: OSError) -> str:
    """Why somebody who called us over TLS was turned away, as the log has it."""
    return f"tls-{reason_of(error)}"


def words_for(reason: str | None) -> str:
    """A reason as a client says it to people: the fact and the next step."""
    return _WORDS.get(reason or "", _WORDS["handshake"])


@dataclass(frozen=True, slots=True)
class Agreed:
    """What two sides agreed on, and who the other one is."""

    protocol: str
    cipher: str
    peer: Certificate | None


def agreed_on(connection: object) -> Agreed | None:
    """What a connected socket is protected by; None if it is plain."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    der = connection.getpeercert(binary_form=True)
    cipher = connection.cipher()
    return Agreed(
        connection.version() or "unknown",
        cipher[0] if cipher else "unknown",
        certificate_of(der) if der else None,
    )


class Verify(StrEnum):
    """How an archive proves that it is the one that is meant. Its chain is verified in any case."""

    HOST = "host"
    FINGERPRINT = "fingerprint"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How to call one destination over TLS.

    credentials   give a context for each connection
    server_name   name that its certificate must have; host name or address
    fingerprints  its certificate must be one of these, if `verify` says so
    """

    credentials: Credentials
    server_name: str
    verify: Verify
    fingerprints: frozenset[str]


class HandshakeFailed(Exception):
    """TLS could not be agreed on; says why, as of `reason_of`."""


def call(plain: socket.socket, tls: ClientTls, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Shake hands over a connected socket, and see that it is the one that is meant.

    Raises HandshakeFailed; then the socket is closed.
    """
    try:
        wrapped = context.wrap_socket(plain, server_hostname=tls.server_name)
    except OSError as error:
        plain.close()
        raise HandshakeFailed(reason_of(error)) from error
    if tls.verify is Verify.FINGERPRINT:
        der = wrapped.getpeercert(binary_form=True)
        if der is None or certificate_of(der).fingerprint not in tls.fingerprints:
            wrapped.close()
            raise HandshakeFailed("wrong-fingerprint")
    return wrapped


def refused_after_all(error: BaseException | None) -> str | None:
    """Why a peer ended TLS that seemed agreed on; None if it is not known that TLS was why.

    In TLS 1.3 one that refuses our certificate says so only with our first read.
    """
    reason = reason_of(error) if isinstance(error, ssl.SSLError) else None
    return reason if reason is not None and reason.startswith("ours-") else None
