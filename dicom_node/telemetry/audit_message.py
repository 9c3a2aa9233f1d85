"""What happened, as a DICOM audit message (PS3.15 A.5): facts to XML and back. Pure; no patient data.

A study is named by its Study Instance UID, instances by SOP class and count. The tables of PS3.15 A.5.3
also ask for the patient; it is left out on purpose, so that the trail can be kept, copied and forwarded
without being a patient record itself. The archive, which holds the study, knows whose it is.
"""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import NamedTuple

OUR_CODES = "99EMODE"
"""Coding scheme (PS3.16 8: 99... are private) of the finer kinds that the standard has no code for."""

_DCM = "DCM"


class AuditKind(StrEnum):
    """Everything that is recorded; the value is our second EventTypeCode, so that reading back is exact."""

    NODE_STARTED = "node-started"
    NODE_STOPPED = "node-stopped"
    PROCESS_ENDED = "process-ended"
    CONFIGURATION_CHANGED = "configuration-changed"
    ASSOCIATION_ACCEPTED = "association-accepted"
    ASSOCIATION_REJECTED = "association-rejected"
    ASSOCIATION_RELEASED = "association-released"
    ASSOCIATION_ABORTED = "association-aborted"
    INSTANCES_ARRIVED = "instances-arrived"
    DELIVERY_BEGUN = "delivery-begun"
    INSTANCES_DELIVERED = "instances-delivered"
    DELIVERY_CONFIRMED = "delivery-confirmed"
    DELIVERY_REFUSED = "delivery-refused"
    STUDY_VIEWED = "study-viewed"
    STUDY_DELETED = "study-deleted"
    AUDIT_LOG_USED = "audit-log-used"
    JOB_RETRIED = "job-retried"
    JOB_CANCELLED = "job-cancelled"
    BREAKER_CHANGED = "breaker-changed"
    ACCESS_DENIED = "access-denied"
    TLS_FAILED = "tls-failed"
    KEY_FILES_REFUSED = "key-files-refused"
    RECORDS_LOST = "records-lost"
    RECORD_TORN = "record-torn"
    CHAIN_BROKEN = "chain-broken"


class Outcome(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR = 4
    SERIOUS = 8
    MAJOR = 12


class Code(NamedTuple):
    """A coded value."""

    value: str
    scheme: str
    meaning: str


class Event(NamedTuple):
    """How a kind is coded (PS3.16 CID 400, 401, 403)."""

    id: Code
    type: Code | None
    action: str
    """C create, R read, U update, D delete, E execute."""


_ACTIVITY = Code("110100", _DCM, "Application Activity")
_LOG_USED = Code("110101", _DCM, "Audit Log Used")
_BEGIN = Code("110102", _DCM, "Begin Transferring DICOM Instances")
_ACCESSED = Code("110103", _DCM, "DICOM Instances Accessed")
_TRANSFERRED = Code("110104", _DCM, "DICOM Instances Transferred")
_DELETED = Code("110105", _DCM, "DICOM Study Deleted")
_ALERT = Code("110113", _DCM, "Security Alert")
_AUTHENTICATION = Code("110114", _DCM, "User Authentication")
_START = Code("110120", _DCM, "Application Start")
_STOP = Code("110121", _DCM, "Application Stop")
_LOGIN = Code("110122", _DCM, "Login")
_LOGOUT = Code("110123", _DCM, "Logout")
_NODE = Code("110126", _DCM, "Node Authentication")
_SECURITY = Code("110129", _DCM, "Security Configuration")
_SOFTWARE = Code("110131", _DCM, "Software Configuration")
_RESTRICTED = Code("110132", _DCM, "Use of Restricted Function")
_RECORDING_STOPPED = Code("110133", _DCM, "Audit Recording Stopped")

# An association that was let in is a login of the peer, and its end the logout: the standard has no event
# of its own for associations. One that was not let in is a failed node authentication (A.5.3.11).
EVENTS: Mapping[AuditKind, Event] = {
    AuditKind.NODE_STARTED: Event(_ACTIVITY, _START, "E"),
    AuditKind.NODE_STOPPED: Event(_ACTIVITY, _STOP, "E"),
    AuditKind.PROCESS_ENDED: Event(_ACTIVITY, _STOP, "E"),
    AuditKind.CONFIGURATION_CHANGED: Event(_ALERT, _SOFTWARE, "E"),
    AuditKind.ASSOCIATION_ACCEPTED: Event(_AUTHENTICATION, _LOGIN, "E"),
    AuditKind.ASSOCIATION_REJECTED: Event(_ALERT, _NODE, "E"),
    AuditKind.ASSOCIATION_RELEASED: Event(_AUTHENTICATION, _LOGOUT, "E"),
    AuditKind.ASSOCIATION_ABORTED: Event(_AUTHENTICATION, _LOGOUT, "E"),
    AuditKind.INSTANCES_ARRIVED: Event(_TRANSFERRED, None, "C"),
    AuditKind.DELIVERY_BEGUN: Event(_BEGIN, None, "E"),
    AuditKind.INSTANCES_DELIVERED: Event(_TRANSFERRED, None, "C"),
    AuditKind.DELIVERY_CONFIRMED: Event(_TRANSFERRED, None, "R"),  # R: the receiver holds it already
    AuditKind.DELIVERY_REFUSED: Event(_TRANSFERRED, None, "C"),
    AuditKind.STUDY_VIEWED: Event(_ACCESSED, None, "R"),
    AuditKind.STUDY_DELETED: Event(_DELETED, None, "D"),
    AuditKind.AUDIT_LOG_USED: Event(_LOG_USED, None, "R"),
    AuditKind.JOB_RETRIED: Event(_ALERT, _RESTRICTED, "E"),
    AuditKind.JOB_CANCELLED: Event(_ALERT, _RESTRICTED, "E"),
    AuditKind.BREAKER_CHANGED: Event(_ALERT, _RESTRICTED, "E"),
    AuditKind.ACCESS_DENIED: Event(_ALERT, _RESTRICTED, "E"),
    AuditKind.TLS_FAILED: Event(_ALERT, _NODE, "E"),
    AuditKind.KEY_FILES_REFUSED: Event(_ALERT, _SECURITY, "E"),
    AuditKind.RECORDS_LOST: Event(_ALERT, _RECORDING_STOPPED, "E"),
    AuditKind.RECORD_TORN: Event(_ALERT, _RECORDING_STOPPED, "E"),
    AuditKind.CHAIN_BROKEN: Event(_ALERT, _RECORDING_STOPPED, "E"),
}


class Part(StrEnum):
    """What an active participant did."""

    APPLICATION = "application"
    LAUNCHER = "launcher"
    SOURCE = "source"
    DESTINATION = "destination"
    PERSON = "person"
    PEER = "peer"


# PS3.16 CID 402. A person who looks or acts, and a peer that only associates, have no code there.
_PARTS: Mapping[Part, Code] = {
    Part.APPLICATION: Code("110150", _DCM, "Application"),
    Part.LAUNCHER: Code("110151", _DCM, "Application Launcher"),
    Part.DESTINATION: Code("110152", _DCM, "Destination Role ID"),
    Part.SOURCE: Code("110153", _DCM, "Source Role ID"),
    Part.PERSON: Code("person", OUR_CODES, "Person"),
    Part.PEER: Code("peer", OUR_CODES, "Peer application entity"),
}


class ObjectKind(StrEnum):
    """What was acted upon."""

    STUDY = "study"
    JOB = "job"
    DESTINATION = "destination"
    CONFIGURATION = "configuration"
    AUDIT_LOG = "audit-log"
    FILE = "file"


class _ObjectCode(NamedTuple):
    id_type: Code
    type: str
    role: str
    name: str


# ParticipantObjectTypeCode 2: system object.
# ParticipantObjectTypeCodeRole 3: report, 13: security resource, 15: destination, 20: job.
_OBJECTS: Mapping[ObjectKind, _ObjectCode] = {
    ObjectKind.STUDY: _ObjectCode(Code("110180", _DCM, "Study Instance UID"), "2", "3", "study"),
    ObjectKind.JOB: _ObjectCode(Code("job", OUR_CODES, "Job number"), "2", "20", "job"),
    ObjectKind.DESTINATION: _ObjectCode(
        Code("destination", OUR_CODES, "Destination name"), "2", "15", "destination"
    ),
    ObjectKind.CONFIGURATION: _ObjectCode(
        Code("configuration", OUR_CODES, "Configuration file"), "2", "13", "configuration"
    ),
    ObjectKind.AUDIT_LOG: _ObjectCode(Code("12", "RFC-3881", "URI"), "2", "13", "Security Audit Log"),
    ObjectKind.FILE: _ObjectCode(Code("file", OUR_CODES, "File"), "2", "13", "file"),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who took part: an application entity, a process of ours, or a person."""

    name: str
    """AE title, process, or user name."""
    part: Part
    requestor: bool = False
    """Did this one begin it?"""
    address: str = ""
    """Where it was."""
    also: str = ""
    """Another name: the process behind an AE title, or how a person came to the account."""


@dataclass(frozen=True, slots=True)
class Thing:
    """What was acted upon."""

    kind: ObjectKind
    id: str
    instances: tuple[tuple[str, int], ...] = ()
    """For a study: (SOP class UID, number of instances)."""
    details: tuple[tuple[str, str], ...] = ()
    """Further facts, as (name, value)."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened."""

    kind: AuditKind
    at: datetime
    actors: tuple[Actor, ...]
    things: tuple[Thing, ...] = ()
    outcome: Outcome = Outcome.SUCCESS
    words: str = ""
    """For people: from our own tables, never from a data set."""


@dataclass(frozen=True, slots=True)
class AuditSource:
    """Who reports: the node."""

    id: str
    """Host or station name."""
    site: str = ""
    """Institution."""
    type: str = field(default="4", repr=False)
    """4: application server process."""


def to_xml(event: AuditEvent, source: AuditSource) -> str:
    """The AuditMessage, in the order and with the parts that the schema of PS3.15 A.5.1 wants."""
    coded = EVENTS[event.kind]
    root = ET.Element("AuditMessage")
    identification = ET.SubElement(
        root,
        "EventIdentification",
        {
            "EventActionCode": coded.action,
            "EventDateTime": _time(event.at),
            "EventOutcomeIndicator": str(int(event.outcome)),
        },
    )
    _code(identification, "EventID", coded.id)
    if coded.type is not None:
        _code(identification, "EventTypeCode", coded.type)
    _code(identification, "EventTypeCode", Code(event.kind, OUR_CODES, event.kind.replace("-", " ")))
    if event.words:
        ET.SubElement(identification, "EventOutcomeDescription").text = _clean(event.words, 400)
    for actor in event.actors:
        _actor(root, actor)
    about = {"AuditSourceID": _clean(source.id, 64)}
    if source.site:
        about["AuditEnterpriseSiteID"] = _clean(source.site, 64)
    reporter = ET.SubElement(root, "AuditSourceIdentification", about)
    ET.SubElement(reporter, "AuditSourceTypeCode", {"csd-code": source.type})
    for thing in event.things:
        _thing(root, thing)
    return ET.tostring(root, encoding="unicode")


def from_xml(text: str) -> AuditEvent:
    """Read back what `to_xml` wrote. Raises ValueError for anything else."""
    try:
        root = ET.fromstring(text)
        identification = root.find("EventIdentification")
        assert identification is not None
        kinds = [
            AuditKind(code.get("csd-code", ""))
            for code in identification.findall("EventTypeCode")
            if code.get("codeSystemName") == OUR_CODES
        ]
        return AuditEvent(
            kind=kinds[0],
            at=datetime.fromisoformat(identification.get("EventDateTime", "")),
            actors=tuple(_read_actor(found) for found in root.findall("ActiveParticipant")),
            things=tuple(_read_thing(found) for found in root.findall("ParticipantObjectIdentification")),
            outcome=Outcome(int(identification.get("EventOutcomeIndicator", ""))),
            words=identification.findtext("EventOutcomeDescription", ""),
        )
    except (ET.ParseError, AssertionError, LookupError, ValueError) as error:
        raise ValueError("not an audit message of this node") from error


def _actor(root: ET.Element, actor: Actor) -> None:
    facts = {"UserID": _clean(actor.name, 64) or "unknown"}
    if actor.also:
        facts["AlternativeUserID"] = _clean(actor.also, 64)
    facts["UserIsRequestor"] = "true" if actor.requestor else "false"
    if actor.address:
        facts["NetworkAccessPointID"] = _clean(actor.address, 255)
        # 1: machine name; 2: IP address. A name has a letter that no IPv4 address has; IPv6 has colons.
        numeric = ":" in actor.address or actor.address.replace(".", "").isdigit()
        facts["NetworkAccessPointTypeCode"] = "2" if numeric else "1"
    element = ET.SubElement(root, "ActiveParticipant", facts)
    _code(element, "RoleIDCode", _PARTS[actor.part])


def _thing(root: ET.Element, thing: Thing) -> None:
    coded = _OBJECTS[thing.kind]
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": _clean(thing.id, 255) or "unknown",
            "ParticipantObjectTypeCode": coded.type,
            "ParticipantObjectTypeCodeRole": coded.role,
        },
    )
    _code(element, "ParticipantObjectIDTypeCode", coded.id_type)
    ET.SubElement(element, "ParticipantObjectName").text = coded.name
    for name, value in thing.details:
        encoded = base64.b64encode(_clean(value, 400).encode()).decode("ascii")
        ET.SubElement(element, "ParticipantObjectDetail", {"type": name, "value": encoded})
    if thing.instances:
        description = ET.SubElement(element, "ParticipantObjectDescription")
        for uid, count in thing.instances:
            ET.SubElement(description, "SOPClass", {"UID": _clean(uid, 64), "NumberOfInstances": str(count)})


def _read_actor(element: ET.Element) -> Actor:
    role = element.find("RoleIDCode")
    assert role is not None
    value = role.get("csd-code")
    return Actor(
        name=element.get("UserID", ""),
        part=next(part for part, code in _PARTS.items() if code.value == value),
        requestor=element.get("UserIsRequestor") == "true",
        address=element.get("NetworkAccessPointID", ""),
        also=element.get("AlternativeUserID", ""),
    )


def _read_thing(element: ET.Element) -> Thing:
    id_type = element.find("ParticipantObjectIDTypeCode")
    assert id_type is not None
    value = id_type.get("csd-code")
    return Thing(
        kind=next(kind for kind, code in _OBJECTS.items() if code.id_type.value == value),
        id=element.get("ParticipantObjectID", ""),
        instances=tuple(
            (found.get("UID", ""), int(found.get("NumberOfInstances", "0")))
            for found in element.findall("ParticipantObjectDescription/SOPClass")
        ),
        details=tuple(
            (found.get("type", ""), base64.b64decode(found.get("value", "")).decode())
            for found in element.findall("ParticipantObjectDetail")
        ),
    )


def _code(parent: ET.Element, tag: str, code: Code) -> None:
    ET.SubElement(
        parent,
        tag,
        {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning},
    )


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clean(text: str, longest: int) -> str:
    """What a stranger wrote (an AE title) may hold anything; XML, logs and terminals may not."""
    return "".join(c if c.isprintable() else "?" for c in text)[:longest].strip()
