"""The application entities that this node calls, and the identities that either side shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_node.config import Config
from dicom_node.config.sections import Destination, DestinationTls, ListenTls, SyslogSection
from dicom_node.core.errors import NodeError
from dicom_node.network.requestor import RemoteAE
from dicom_node.network.tls import ClientTls, Verify
from dicom_node.node.values import layout_of, now
from dicom_node.telemetry.audit_trail import NO_AUDIT, AuditTrail
from dicom_node.trust.certificates import Expiry
from dicom_node.trust.contexts import Profile, TlsFiles, client_context, server_context
from dicom_node.trust.credentials import Credentials
from dicom_node.trust.files import Secret, check_private
from dicom_node.trust.watch import expiries, peer_expiries

if TYPE_CHECKING:
    from dicom_node.network.qido import QidoServer
    from dicom_node.work.deliver import Archive


def remotes_of(config: Config, trail: AuditTrail = NO_AUDIT) -> dict[str, RemoteAE]:
    """The destinations as application entities; associations with them are told to `trail`."""
    return {
        name: RemoteAE(
            name=name,
            ae_title=section.ae_title,
            host=section.host,
            port=section.port,
            calling_ae_title=section.calling_ae_title,
            connect_timeout_s=section.connect_timeout_s,
            answer_timeout_s=section.answer_timeout_s,
            tls=_client_tls(name, section),
            trail=trail,
        )
        for name, section in config.destinations.items()
    }


def archives_of(config: Config, trail: AuditTrail = NO_AUDIT) -> dict[str, Archive]:
    """The destinations as archives that results are delivered to."""
    from dicom_node.work.deliver import Archive

    return {
        name: Archive(
            remote=remote,
            confirm=config.destinations[name].confirm != "none",
            confirm_delay_s=config.destinations[name].confirm_delay_s,
            max_attempts=config.destinations[name].retry.max_attempts,
            linger_s=config.destinations[name].linger_s,
        )
        for name, remote in remotes_of(config, trail).items()
    }


def qido_servers_of(config: Config) -> dict[str, QidoServer]:
    """The destinations that answer QIDO-RS, by name."""
    from dicom_node.network.qido import QidoServer

    return {
        name: QidoServer(
            name, section.qido_url, Secret(section.qido_authorization_file), section.answer_timeout_s
        )
        for name, section in config.destinations.items()
        if section.qido_url is not None
    }


def listening_on(config: Config) -> list[tuple[str, int]]:
    """The ways in: what is spoken, and on which port."""
    ways = [("plain DICOM", config.listen.port)] if config.listen.port is not None else []
    return [*ways, *([("TLS", config.listen.tls.port)] if config.listen.tls else [])]


def listening_credentials(config: Config) -> Credentials | None:
    """The identity that callers over TLS see, if there is such a listener."""
    section = config.listen.tls
    if section is None:
        return None
    return Credentials(
        _files_of("listen.tls", section),
        lambda files: server_context(files, now(), require_certificate=section.require_certificate),
    )


def collector_credentials(config: Config) -> Credentials | None:
    """Who we are to the collector of audit messages, if there is one."""
    section = config.audit.syslog
    if section is None:
        return None
    return Credentials(_files_of("audit.syslog", section), lambda files: client_context(files, now()))


def all_credentials(config: Config) -> list[Credentials]:
    """Every identity of this node, in and out."""
    listening = listening_credentials(config)
    calling = [remote.tls.credentials for remote in remotes_of(config).values() if remote.tls]
    collecting = collector_credentials(config)
    return [*([listening] if listening else []), *calling, *([collecting] if collecting else [])]


def certificate_problems(config: Config) -> list[str]:
    """What is wrong with the files of TLS, and with secrets, as they are now: file, fact, next step."""
    problems = []
    for credentials in all_credentials(config):
        try:
            credentials.try_files()
        except NodeError as error:
            problems.append(f"{credentials.files.name}: {error}")
    for name, section in config.destinations.items():
        if section.qido_authorization_file is not None:
            try:
                check_private(section.qido_authorization_file)
            except NodeError as error:
                problems.append(f"destinations.{name}.qido_authorization_file: {error}")
    return problems


def certificate_expiries(config: Config) -> list[Expiry]:
    """Every certificate in use, those that peers showed too, the first to end first."""
    warn_days = config.certificates.warn_days
    files = [credentials.files for credentials in all_credentials(config)]
    seen = peer_expiries(layout_of(config).peer_certificates, now(), warn_days)
    return sorted([*expiries(files, now(), warn_days), *seen], key=lambda expiry: expiry.ends)


def _client_tls(name: str, section: Destination) -> ClientTls | None:
    if section.tls is None:
        return None
    verify = Verify(section.tls.verify)
    return ClientTls(
        Credentials(
            _files_of(f"destinations.{name}.tls", section.tls),
            lambda files: client_context(files, now(), check_host=verify is Verify.HOST),
        ),
        server_name=section.tls.server_name or section.host,
        verify=verify,
        fingerprints=frozenset(section.tls.fingerprints),
    )


def _files_of(name: str, section: ListenTls | DestinationTls | SyslogSection) -> TlsFiles:
    return TlsFiles(
        name=name,
        certificate=section.certificate,
        key=section.key,
        password=Secret(section.key_password_file, section.key_password_env),
        trust=section.trust,
        profile=Profile(section.profile),
    )
