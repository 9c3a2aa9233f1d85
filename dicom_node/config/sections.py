"""The keys of the configuration: names, types, defaults, limits, and the reason for each.

`deploy/emode.yaml` is the manual: it names every key here, and a test holds the two together.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from dicom_node.core.identity import is_ae_title, is_uid
from dicom_node.core.safety import begins_synthetic
from dicom_node.trust.certificates import CertificateName, fingerprint_from

DEFAULT_BUNDLE_NAME = "default"
"""As a bundle's path: the bundle that ships with the program."""


def _ae_title(text: str) -> str:
    if not is_ae_title(text):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters, no backslash, not only spaces")
    return text.strip(" ")


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ValueError(f"{error}; write an address (10.1.2.3) or a network (10.1.2.0/24)") from None


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def _uid(text: str) -> str:
    if not is_uid(text):
        raise ValueError("not a UID: digits and dots, at most 64 characters")
    return text


def _ascii(text: str) -> str:
    # Results keep the source's character set, whatever it is; ASCII is what all of them share.
    if not text.isascii() or "\\" in text or not text.isprintable():
        raise ValueError("must be printable ASCII without a backslash")
    return text


def _certificate(text: str) -> str:
    return str(CertificateName.parse(text))


def _beside_the_file(value: Any, info: ValidationInfo) -> Any:
    """Relative paths mean "next to the configuration file", wherever the program was started."""
    folder = (info.context or {}).get("folder")
    if isinstance(value, str) and folder is not None:
        return (folder / Path(value).expanduser()).resolve()
    return value


AeTitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Ascii = Annotated[str, AfterValidator(_ascii)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Uid = Annotated[str, AfterValidator(_uid)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fingerprint = Annotated[str, AfterValidator(fingerprint_from)]
NameOfCertificate = Annotated[str, AfterValidator(_certificate)]
FilePath = Annotated[Path, BeforeValidator(_beside_the_file)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _TlsFiles(_Section):
    key_password_file: FilePath | None = None
    """File whose first line is the password of the key; null: the key is not encrypted."""
    key_password_env: Annotated[str, Field(min_length=1)] | None = None
    """Environment variable that holds the password instead."""
    profile: Literal["bcp195", "bcp195-modified"] = "bcp195"
    """bcp195: PS3.15 B.12; bcp195-modified: B.13, fewer ciphers. Both TLS 1.2 and 1.3, 1.3 preferred."""

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.key_password_file is not None and self.key_password_env is not None:
            raise ValueError("key_password_file and key_password_env are both set; keep one")
        return self


class ListenTls(_TlsFiles):
    """DICOM over TLS, in."""

    port: Annotated[int, Field(ge=0, le=65535)] = 2762
    """TCP port; 2762 is the one registered for it. 0 takes a free one (tests)."""
    certificate: FilePath
    """PEM file: our certificate first, then intermediates. Read again when it changes, like the others."""
    key: FilePath
    """PEM file: its private key. Only the node's user may be able to read it."""
    trust: FilePath
    """PEM file: the CAs, or single certificates, whose holders may call."""
    require_certificate: bool = True
    """false lets callers in that show no certificate: encrypted, but anybody at a listed address."""


class DestinationTls(_TlsFiles):
    """DICOM over TLS, out."""

    certificate: FilePath | None = None
    """PEM file: our certificate, which most archives ask for. null: we call without one."""
    key: FilePath | None = None
    """PEM file: its private key. Only the node's user may be able to read it."""
    trust: FilePath
    """PEM file: the CA of the archive's certificate, or that certificate itself."""
    verify: Literal["host", "fingerprint", "chain"] = "host"
    """What else than the chain: host: its certificate names `host`; fingerprint: it is one of
    `fingerprints`; chain: nothing else, so that any certificate of that CA may stand in for the archive."""
    server_name: Annotated[str, Field(min_length=1)] | None = None
    """Name to look for in its certificate instead of `host`, for example if `host` is an address."""
    fingerprints: tuple[Fingerprint, ...] = ()
    """SHA-256 fingerprints; list the next one before the archive's certificate is renewed."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; set both or none")
        if (self.verify == "fingerprint") != bool(self.fingerprints):
            raise ValueError("verify: fingerprint and a list of fingerprints belong together")
        return self


class CertificatesSection(_Section):
    """Certificates in use: our own, trusted ones, and those that peers show."""

    warn_days: Annotated[int, Field(ge=1, le=365)] = 30
    """Days before the end of a certificate from which the log, status and check warn."""


class Listen(_Section):
    """Where the node takes associations."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 is every interface; plain DICOM is not encrypted."""
    port: Annotated[int, Field(ge=0, le=65535)] | None = 11112
    """TCP port of plain DICOM for every called AE title; null: only TLS. 0 takes a free one (tests)."""
    tls: ListenTls | None = None
    """DICOM over TLS, on a port of its own."""
    processes: Annotated[int, Field(ge=1, le=32)] | None = None
    """Processes that take associations from the same ports, some 20 MiB each; null: one for each core of the
    machine, at most 4. One receives on one core at a time; the limits below are for all of them together."""
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 50
    """Associations at once; one more is rejected as "local limit exceeded", and senders try again."""
    max_associations_per_peer: Annotated[int, Field(ge=1, le=1000)] = 25
    """The same of one peer (AE title and address), so that nobody takes everybody's."""
    max_waiting: Annotated[int, Field(ge=1, le=10000)] = 200
    """Connections that have not asked for an association yet. One more ends the one that waits longest.
    Each process takes its share of this and of the next."""
    max_waiting_per_address: Annotated[int, Field(ge=1, le=10000)] = 50
    """The same from one address."""
    request_timeout_s: Seconds = 10.0
    """Seconds from the connection to the whole association request (TLS included); then it is closed."""
    max_duration_s: Seconds = 14400.0
    """Seconds an association may last; then it is aborted, and senders open another."""
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 131072
    """Largest PDU we ask for. Larger means fewer steps per image; senders may use less."""
    idle_timeout_s: Seconds = 60.0
    """Seconds without a whole message fragment (PDU) from the sender; then the association is aborted."""


class Peer(_Section):
    """Somebody who may open an association to us."""

    ae_title: AeTitle
    """Calling AE title, compared with case."""
    addresses: Annotated[tuple[Network, ...], Field(min_length=1)]
    """Addresses or networks it may call from."""
    certificates: tuple[NameOfCertificate, ...] = ()
    """Certificates it may call with, and then never over plain DICOM. Empty: any that `trust` vouches for."""
    plain: bool = True
    """false: only over TLS."""


class Retry(_Section):
    """How patiently a temporary failure is tried again."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 10
    """Tries in all; after the last the delivery waits for a person."""
    first_delay_s: Seconds = 30.0
    """Seconds before the second try."""
    factor: Annotated[float, Field(ge=1, le=10)] = 2.0
    """Each further delay is this many times the one before."""
    cap_s: Annotated[Seconds, Field(le=43200)] = 3600.0
    """No delay is longer than this."""


class BreakerSection(_Section):
    """When a destination that fails is left alone. Its results then wait and lose no try."""

    failures: Annotated[int, Field(ge=1, le=1000)] = 3
    """Failures in a row of the destination itself (not reachable, rejected, aborted, silent, busy)."""
    first_pause_s: Seconds = 15.0
    """Seconds until one result is sent as a trial; each further pause is twice as long."""
    cap_s: Annotated[Seconds, Field(le=3600)] = 120.0
    """No pause is longer: it is the longest that results wait once the destination is back."""


class Destination(_Section):
    """An archive that results are sent to."""

    ae_title: AeTitle
    """Its AE title (called)."""
    host: Annotated[str, Field(min_length=1)]
    """Host name or address."""
    port: Port = 104
    """TCP port."""
    calling_ae_title: AeTitle = "EMODE"
    """What we call ourselves; the archive usually has to know it."""
    tls: DestinationTls | None = None
    """DICOM over TLS; null: plain DICOM."""
    confirm: Literal["commitment", "find", "qido", "none"] = "find"
    """How "confirmed" is proven. commitment: the archive commits to each result (storage commitment);
    find: it lists each by C-FIND; qido: it lists each by QIDO-RS; none: its success status must do."""
    confirm_delay_s: Annotated[float, Field(ge=0)] = 1.0
    """Seconds between success and the first question; archives index a moment later."""
    commitment_timeout_s: Annotated[Seconds, Field(le=43200)] = 300.0
    """Seconds to wait for a storage commitment report before the archive is asked anew."""
    qido_url: Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$")] | None = None
    """URL of its DICOMweb service, which QIDO-RS queries start from; needed for `confirm: qido`."""
    qido_authorization_file: FilePath | None = None
    """File with what the Authorization header of QIDO-RS says, such as "Bearer ..."; none: no header."""
    connect_timeout_s: Seconds = 10.0
    """Seconds to wait for the TCP connection and for the association."""
    answer_timeout_s: Seconds = 60.0
    """Seconds to wait for each answer."""
    linger_s: Annotated[float, Field(ge=0, le=20)] = 2.0
    """Seconds that an association stays open after the last result or question, for the next one.
    0 for archives that take one association at a time. Most end it themselves after 30 s."""
    retry: Retry = Retry()
    """When a try fails for now."""
    breaker: BreakerSection = BreakerSection()
    """When every try fails."""


class MatchSection(_Section):
    """Which images a route takes; every condition left out takes all. "" in a list means "absent"."""

    modality: tuple[str, ...] = ("US",)
    """(0008,0060), compared without case."""
    sop_class: tuple[Uid, ...] = ()
    """(0008,0016), as UIDs."""
    body_part: tuple[str, ...] = ("BREAST", "")
    """(0018,0015), compared without case. Many scanners leave it out, so "" is in the default."""
    calling_ae_title: tuple[AeTitle, ...] = ()
    """Only from these senders."""
    description: Pattern | None = None
    """Regular expression that study or series description must contain; case does not matter."""
    description_not: Pattern | None = None
    """Regular expression that neither description may contain."""


class RouteSection(_Section):
    """One way through the node. Routes of one called AE title are tried in the order written."""

    name: Name
    """For people and logs."""
    called_ae_title: AeTitle = "EMODE"
    """The AE title senders call to take this route."""
    match: MatchSection = MatchSection()
    """Which images it takes."""
    bundle: Name = DEFAULT_BUNDLE_NAME
    """The model: a name from `bundles`."""
    destinations: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Where results go: names from `destinations`."""
    priority: Literal["stat", "high", "routine", "low"] = "routine"
    """Rank in the queue; stat overtakes."""
    deliver: Literal["at-once", "when-settled"] = "at-once"
    """at-once: each result as soon as it exists; when-settled: all of a study together."""


class LabelSection(_Section):
    """What is burned into the pixels of every result. It cannot be switched off."""

    text: Annotated[str, Field(min_length=8, max_length=120)] = "AI SYNTHETIC - NOT MEASURED - RESEARCH USE"
    """The warning, in the language of the readers; at least 5 % of the short side high."""
    soft: Annotated[str, Field(min_length=1, max_length=40)] = "soft (predicted)"
    """Upper end of the colour bar."""
    hard: Annotated[str, Field(min_length=1, max_length=40)] = "hard (predicted)"
    """Lower end of the colour bar."""
    font_file: FilePath | None = None
    """TrueType or OpenType font for a wording beyond Latin letters; none: the built-in font."""


class ResultsSection(_Section):
    """What result objects look like and say."""

    layout: Literal["side-by-side", "emode"] = "side-by-side"
    """side-by-side: B-mode beside synthetic E-mode; emode: the E-mode alone."""
    label: LabelSection = LabelSection()
    """Burned-in wording."""
    series_description: Annotated[Ascii, Field(min_length=12, max_length=64)] = (
        "AI SYNTHETIC strain elastography (not measured)"
    )
    """(0008,103E). Must begin with AI SYNTHETIC: it is what many viewers show first."""
    series_number_base: Annotated[int, Field(ge=1, le=2_000_000)] = 9000
    """(0020,0011) of results is this plus the source's series number."""

    @model_validator(mode="after")
    def _says_synthetic(self) -> Self:
        if not begins_synthetic(self.series_description):
            raise ValueError("series_description must begin with AI SYNTHETIC")
        return self


class EquipmentSection(_Section):
    """How this node names itself in results (PS3.3 C.7.5.1)."""

    manufacturer: Annotated[Ascii, Field(min_length=1, max_length=64)] = "Emode project"
    """(0008,0070)."""
    model_name: Annotated[Ascii, Field(min_length=1, max_length=64)] = "Emode"
    """(0008,1090)."""
    device_serial_number: Annotated[Ascii, Field(max_length=64)] = "unset"
    """(0018,1000). Give each node its own."""
    station_name: Annotated[Ascii, Field(max_length=16)] = ""
    """(0008,1010)."""
    institution_name: Annotated[Ascii, Field(max_length=64)] = ""
    """(0008,0080)."""


class InferenceSection(_Section):
    """The worker that runs the model."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one; cuda refuses to start without."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the network; auto is bf16 where the device computes in it, else fp32."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """CPU threads of the network; none: a fair share of the cores for each image that is worked on."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 8
    """Most images in one pass; fewer are run at once, nothing is waited for."""
    unfamiliar: Literal["skip", "mark"] = "skip"
    """Frames that do not look like the breast B-mode that the bundle learnt from: leave them alone, or make
    results that say so in the picture. Bundles that cannot tell take every frame."""
    time_limit_s: Seconds = 120.0
    """Seconds that reading one image, running the model on it, or making its results may each take.

    Longer is hung: the process is ended, and what it had in hand is tried again.
    """
    memory_mib: Annotated[int, Field(ge=512)] = 6144
    """MiB of memory above which the worker is ended: an image that needs more runs out of tries.

    The network takes 400 to 700, reading a frame 25 (grey) to 60 (colour) for each of its megapixels.
    """
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Tries for one image before it is parked; it may be the image that kills the worker."""


class LimitsSection(_Section):
    """What the node refuses, so that nobody can fill it up."""

    object_mib: Annotated[int, Field(ge=1, le=65536)] = 2048
    """Largest received object, in MiB."""
    decoded_megapixels: Annotated[int, Field(ge=1, le=1000)] = 64
    """Largest single frame, in millions of pixels; checked before decoding."""
    frames: Annotated[int, Field(ge=1)] = 10_000
    """Most frames of one object; one with more is skipped, before anything is decoded."""
    total_megapixels: Annotated[int, Field(ge=1)] = 20_000
    """Rows x columns x frames of one object, in millions; one with more is skipped likewise."""
    process_memory_mib: Annotated[int, Field(ge=256)] = 2048
    """MiB of memory above which the receiver or the courier is ended and started again."""
    min_free_mib: Annotated[int, Field(ge=0)] = 1024
    """Free space on the data disk, in MiB, below which C-STORE is answered A700 (try again later).

    Below half of it the model rests too: the last half is for the database and for deliveries.
    """
    resume_free_mib: Annotated[int, Field(ge=0)] | None = None
    """Free MiB from which objects are taken again; null: a quarter more than min_free_mib."""

    @model_validator(mode="after")
    def _resumes_above(self) -> Self:
        if self.resume_free_mib is not None and self.resume_free_mib < self.min_free_mib:
            raise ValueError(f"resume_free_mib must be at least min_free_mib ({self.min_free_mib})")
        return self


class SettleSection(_Section):
    """When a study counts as complete. Images never wait for it; held deliveries do."""

    quiet_s: Seconds = 30.0
    """Seconds without a new image. Longer than the slowest gap between two images of one exam."""
    max_wait_s: Seconds = 1800.0
    """Seconds after the first image at which a study settles even if images keep coming."""


class RetentionSection(_Section):
    """How long local copies stay. Only what every archive has confirmed ever goes, and rows always stay."""

    days: Annotated[float, Field(gt=0, le=36500, allow_inf_nan=False)] | None = 30.0
    """Days after a study's last image; null: never by age."""
    max_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most GiB of all local copies; above it the oldest studies go first. null: no limit."""
    accepted_is_enough: bool = False
    """true: for destinations with `confirm: none`, "accepted" counts as proof. false keeps those copies."""


class LogSection(_Section):
    """The log, one line per event on standard error; never patient data."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""
    format: Literal["text", "json"] = "text"
    """text for people, json for collectors."""


Account = Annotated[str, Field(pattern=r"^@?[A-Za-z0-9_][A-Za-z0-9_.$\\-]{0,63}$")]


class AccessSection(_Section):
    """What people may do: user names of this machine, and its groups after an @. Empty: no roles."""

    viewers: tuple[Account, ...] = ()
    """May look at studies and jobs."""
    operators: tuple[Account, ...] = ()
    """May also retry and cancel jobs, set breakers, and let the node call a destination."""
    admins: tuple[Account, ...] = ()
    """May also run the node, change its configuration, delete, and read the audit trail."""

    @model_validator(mode="after")
    def _somebody_can_grant(self) -> Self:
        if (self.viewers or self.operators) and not self.admins:
            raise ValueError("roles are given, but nobody is an admin; list at least one under admins")
        return self


class SyslogSection(_TlsFiles):
    """A collector of audit messages: syslog over TLS (RFC 5425, PS3.15 A.7)."""

    host: Annotated[str, Field(min_length=1)]
    """Host name or address."""
    port: Port = 6514
    """TCP port."""
    certificate: FilePath | None = None
    """PEM file: our certificate, if the collector asks for one. null: we call without one."""
    key: FilePath | None = None
    """PEM file: its private key. Only the node's user may be able to read it."""
    trust: FilePath
    """PEM file: the CA of the collector's certificate, or that certificate itself."""
    server_name: Annotated[str, Field(min_length=1)] | None = None
    """Name to look for in its certificate instead of `host`."""
    timeout_s: Seconds = 10.0
    """Seconds for the connection and for each step on it."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; set both or none")
        return self


class AuditSection(_Section):
    """The audit trail: always written to audit/ in the data folder."""

    segment_mib: Annotated[int, Field(ge=1, le=1024)] = 16
    """Size at which a file of the trail is closed and the next begun, in MiB."""
    syslog: SyslogSection | None = None
    """A collector that gets a copy."""


class Config(_Section):
    """Everything a node is told."""

    data_dir: FilePath = Path("var")
    """Folder for the database and the files; created if missing. Relative to this file."""
    listen: Listen = Listen()
    """Where the node takes associations."""
    peers: tuple[Peer, ...] = ()
    """Who may call: a closed list. Empty means nobody."""
    certificates: CertificatesSection = CertificatesSection()
    """When to warn of certificates that end."""
    accept_unknown_peers: bool = False
    """true: anybody may call. For a bench without patients only."""
    destinations: Annotated[dict[Name, Destination], Field(min_length=1)]
    """Archives, by a name of your choice."""
    bundles: dict[Name, Literal["default"] | FilePath] = {DEFAULT_BUNDLE_NAME: "default"}
    """Models, by a name of your choice: a folder, or the word default for the one that ships."""
    routes: Annotated[tuple[RouteSection, ...], Field(min_length=1)]
    """Which images are taken, in the order tried."""
    results: ResultsSection = ResultsSection()
    """What results look like and say."""
    equipment: EquipmentSection = EquipmentSection()
    """How this node names itself."""
    inference: InferenceSection = InferenceSection()
    """The worker that runs the model."""
    limits: LimitsSection = LimitsSection()
    """What the node refuses."""
    settle: SettleSection = SettleSection()
    """When a study counts as complete."""
    retention: RetentionSection = RetentionSection()
    """How long local copies stay."""
    log: LogSection = LogSection()
    """The log."""
    access: AccessSection = AccessSection()
    """Who may do what on this machine."""
    audit: AuditSection = AuditSection()
    """The audit trail."""
