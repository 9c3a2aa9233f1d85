"""Audit messages: what the schema and the tables of PS3.15 A.5 require, and nothing of a patient."""

import base64
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import pytest

from dicom_node.telemetry.audit_message import (
    EVENTS,
    Actor,
    AuditEvent,
    AuditKind,
    AuditSource,
    ObjectKind,
    Outcome,
    Part,
    Thing,
    from_xml,
    to_xml,
)

AT = datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)
SOURCE = AuditSource("node-1", "Hospital")

# PS3.15 A.5.1, as the order of children with (least, most), and attributes as (required, optional).
CODED = {"csd-code", "codeSystemName", "originalText"}
SCHEMA = {
    "AuditMessage": (
        [
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, None),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, None),
        ],
        set(),
        set(),
    ),
    "EventIdentification": (
        [("EventID", 1, 1), ("EventTypeCode", 0, None), ("EventOutcomeDescription", 0, 1)],
        {"EventDateTime", "EventOutcomeIndicator"},
        {"EventActionCode"},
    ),
    "EventID": ([], CODED, {"displayName"}),
    "EventTypeCode": ([], CODED, {"displayName"}),
    "EventOutcomeDescription": ([], set(), set()),
    "ActiveParticipant": (
        [("RoleIDCode", 0, None)],
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
    ),
    "RoleIDCode": ([], CODED, {"displayName"}),
    "AuditSourceIdentification": (
        [("AuditSourceTypeCode", 0, None)],
        {"AuditSourceID"},
        {"AuditEnterpriseSiteID"},
    ),
    "AuditSourceTypeCode": ([], {"csd-code"}, {"codeSystemName", "displayName", "originalText"}),
    "ParticipantObjectIdentification": (
        [
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 1, 1),
            ("ParticipantObjectDetail", 0, None),
            ("ParticipantObjectDescription", 0, None),
        ],
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole", "ParticipantObjectDataLifeCycle"},
    ),
    "ParticipantObjectIDTypeCode": ([], CODED, {"displayName"}),
    "ParticipantObjectName": ([], set(), set()),
    "ParticipantObjectDetail": ([], {"type", "value"}, set()),
    "ParticipantObjectDescription": ([("SOPClass", 0, None)], set(), set()),
    "SOPClass": ([], {"NumberOfInstances"}, {"UID"}),
}
VALUES = {
    "EventActionCode": set("CRUDE"),
    "EventOutcomeIndicator": {"0", "4", "8", "12"},
    "UserIsRequestor": {"true", "false"},
    "NetworkAccessPointTypeCode": set("12345"),
    "ParticipantObjectTypeCode": set("1234"),
    "ParticipantObjectTypeCodeRole": {str(n) for n in range(1, 27)},
}
# PS3.15 A.5.3: event -> (actions allowed, roles that must take part, must a study be named).
TABLES = {
    "110100": ("E", {"110150"}, False),
    "110101": ("R", set(), False),
    "110102": ("E", {"110153", "110152"}, True),
    "110103": ("CRUD", set(), True),
    "110104": ("CRU", {"110153", "110152"}, True),
    "110105": ("D", set(), True),
    "110113": ("E", set(), False),
    "110114": ("E", set(), False),
}


def schema_errors(element):
    """What PS3.15 A.5.1 has against an element, as text."""
    children, required, optional = SCHEMA[element.tag]
    found = [child.tag for child in element]
    order = [tag for tag, _, _ in children]
    if found != sorted(found, key=lambda tag: order.index(tag) if tag in order else -1):
        yield f"{element.tag}: order {found}"
    for tag, least, most in children:
        if not least <= found.count(tag) <= (most or 1000):
            yield f"{element.tag}: {found.count(tag)} {tag}"
    for name in required - set(element.keys()):
        yield f"{element.tag}: no {name}"
    for name, value in element.items():
        if name not in required | optional:
            yield f"{element.tag}: {name} is unknown"
        if value not in VALUES.get(name, {value}) or not value:
            yield f"{element.tag}: {name}={value!r}"
    for child in element:
        yield from schema_errors(child) if child.tag in SCHEMA else [f"{child.tag} is unknown"]


def table_errors(root):
    """What the table of the event in PS3.15 A.5.3 has against a message."""
    event = root.find("EventIdentification")
    actions, roles, studies = TABLES[event.find("EventID").get("csd-code")]
    if event.get("EventActionCode") not in actions:
        yield f"action {event.get('EventActionCode')}"
    there = {code.get("csd-code") for code in root.iter("RoleIDCode")}
    yield from (f"role {role} is missing" for role in roles - there)
    named = {code.get("csd-code") for code in root.iter("ParticipantObjectIDTypeCode")}
    if studies and "110180" not in named:
        yield "no study"


def example(kind):
    transfers = {"110102", "110104"}
    study = Thing(ObjectKind.STUDY, "1.2.3", instances=(("1.2.840.10008.5.1.4.1.1.6.1", 3),))
    if EVENTS[kind].id.value in transfers:
        actors = (
            Actor("PACS", Part.SOURCE, True, "10.1.2.3"),
            Actor("EMODE", Part.DESTINATION, also="receiver"),
        )
        return AuditEvent(kind, AT, actors, (study,))
    if EVENTS[kind].id.value == "110100":
        return AuditEvent(kind, AT, (Actor("emode 1", Part.APPLICATION), Actor("jo", Part.LAUNCHER, True)))
    things = tuple(Thing(k, "7", details=(("sha256", "ab"),)) for k in ObjectKind if k != ObjectKind.STUDY)
    return AuditEvent(
        kind, AT, (Actor("jo", Part.PERSON, True, "host"),), (study, *things), Outcome.MINOR, "why"
    )


@pytest.mark.parametrize("kind", AuditKind)
def test_every_kind_is_valid_by_the_schema_and_its_table_and_reads_back(kind):
    event = example(kind)
    text = to_xml(event, SOURCE)
    root = ET.fromstring(text)
    assert list(schema_errors(root)) == []
    assert list(table_errors(root)) == []
    assert from_xml(text) == event


def test_the_checker_itself_finds_what_is_wrong():
    root = ET.fromstring(to_xml(example(AuditKind.INSTANCES_ARRIVED), SOURCE))
    root.remove(root.find("AuditSourceIdentification"))
    root.find("EventIdentification").set("EventActionCode", "X")
    root.remove(root.findall("ActiveParticipant")[0])
    assert len(list(schema_errors(root))) == 2
    assert len(list(table_errors(root))) == 2


def test_kinds_have_codes_of_their_own_and_are_all_coded():
    assert set(EVENTS) == set(AuditKind)
    for kind, event in EVENTS.items():
        assert event.id.value in TABLES, kind


def test_a_study_is_named_by_uid_and_class_and_nobody_by_name():
    text = to_xml(example(AuditKind.INSTANCES_ARRIVED), SOURCE)
    root = ET.fromstring(text)
    (study,) = root.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert study.find("ParticipantObjectDescription/SOPClass").get("NumberOfInstances") == "3"
    # ParticipantObjectTypeCode 1 is a person, role 1 the patient.
    assert not root.findall("ParticipantObjectIdentification[@ParticipantObjectTypeCode='1']")


def test_what_a_stranger_calls_himself_breaks_nothing():
    nasty = 'A<&"\x00\n\x1b[31m]]>'
    event = AuditEvent(
        AuditKind.ASSOCIATION_REJECTED, AT, (Actor(nasty, Part.PEER, True, "10.0.0.1"), Actor("", Part.PEER))
    )
    text = to_xml(event, SOURCE)
    root = ET.fromstring(text)
    assert list(schema_errors(root)) == []
    assert not [c for c in text if ord(c) < 32]
    assert [a.get("UserID") for a in root.findall("ActiveParticipant")] == ['A<&"???[31m]]>', "unknown"]
    assert root.find("ActiveParticipant").get("NetworkAccessPointTypeCode") == "2"


def test_details_are_base64_as_the_schema_wants():
    thing = Thing(ObjectKind.CONFIGURATION, "/etc/emode.yaml", details=(("sha256", "ä"),))
    text = to_xml(
        AuditEvent(AuditKind.CONFIGURATION_CHANGED, AT, (Actor("jo", Part.PERSON),), (thing,)), SOURCE
    )
    detail = ET.fromstring(text).find("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert base64.b64decode(detail.get("value")).decode() == "ä"
    assert from_xml(text).things == (thing,)


@pytest.mark.parametrize(
    "text", ["", "<AuditMessage/>", "<a><b/></a>", to_xml(example(AuditKind.NODE_STARTED), SOURCE)[:-5]]
)
def test_what_is_no_message_of_ours_says_so(text):
    with pytest.raises(ValueError, match="not an audit message"):
        from_xml(text)
