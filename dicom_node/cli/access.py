"""Who types a command, whether they may, and the record of it."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from dicom_node.cli.console import EXIT_INCOMPLETE, err, leave
from dicom_node.config import Config
from dicom_node.core.access import Action, Person
from dicom_node.core.errors import AccessDenied
from dicom_node.telemetry.audit_message import Actor, AuditEvent, AuditKind, ObjectKind, Outcome, Part, Thing

_SAME_LOOK = timedelta(minutes=10)
"""Looking at the same studies again within this time is one access: screens are watched."""

_STUDIES_A_RECORD = 10
"""Keeps a message within the 8 KiB that every collector takes."""


def person(data_dir: Path) -> Person:
    """The real user, also behind sudo.

    SUDO_USER counts only where the real user is root: anybody else can set it to anything.
    """
    uid, how = os.getuid(), ""
    if uid == 0 and os.environ.get("SUDO_UID", "").isdigit():
        uid, how = int(os.environ["SUDO_UID"]), "sudo"
    try:
        entry = pwd.getpwuid(uid)
        name = entry.pw_name
        groups = frozenset(
            grp.getgrgid(gid).gr_name for gid in os.getgrouplist(name, entry.pw_gid) if _is_group(gid)
        )
    except KeyError:  # a container's user without an entry
        name, groups = f"uid-{uid}", frozenset()
    return Person(name, groups, how, runs_the_node=not how and _owns(uid, data_dir))


def permit(settings: Config, action: Action) -> Person:
    """Let the person go on, or say which role it takes, record the attempt, and leave."""
    from dicom_node.node.people import access_of, audit_of
    from dicom_node.node.values import now

    who = person(settings.data_dir)
    try:
        access_of(settings).require(who, action)
    except AccessDenied as error:
        words = f"denied: {action}"
        audit_of(settings).record(
            AuditEvent(AuditKind.ACCESS_DENIED, now(), (actor(who),), outcome=Outcome.SERIOUS, words=words)
        )
        leave(error, EXIT_INCOMPLETE)
    return who


def record_access(settings: Config, who: Person, studies: Iterable[str]) -> None:
    """These studies were shown to this person."""
    from dicom_node.node.people import audit_of
    from dicom_node.node.values import now

    named = sorted(set(studies))
    trail = audit_of(settings)
    for start in range(0, len(named), _STUDIES_A_RECORD):
        things = tuple(Thing(ObjectKind.STUDY, uid) for uid in named[start : start + _STUDIES_A_RECORD])
        trail.record_once(AuditEvent(AuditKind.STUDY_VIEWED, now(), (actor(who),), things), _SAME_LOOK)


def record_operation(
    settings: Config, who: Person, kind: AuditKind, things: Iterable[Thing], words: str = ""
) -> None:
    """This person did something to jobs or destinations."""
    from dicom_node.node.people import audit_of
    from dicom_node.node.values import now

    all_things = list(things)
    for start in range(0, len(all_things), 2 * _STUDIES_A_RECORD):
        part = tuple(all_things[start : start + 2 * _STUDIES_A_RECORD])
        audit_of(settings).record(AuditEvent(kind, now(), (actor(who),), part, words=words))


def record_key_files(settings: Config, problems: list[str]) -> None:
    """The node does not start with these files: a key that others can read is a security alert."""
    from dicom_node.node.people import audit_of
    from dicom_node.node.values import now

    who = (actor(person(settings.data_dir)),)
    for words in problems:
        event = AuditEvent(AuditKind.KEY_FILES_REFUSED, now(), who, outcome=Outcome.SERIOUS, words=words)
        audit_of(settings).record(event)


def actor(who: Person) -> Actor:
    """A person as the audit trail names them."""
    return Actor(who.name, Part.PERSON, requestor=True, address=socket.gethostname(), also=who.how)


def warn_about_root() -> None:
    """Whoever breaks into a process that runs as root has the machine."""
    if os.geteuid() == 0:
        err.print(
            "[bold yellow]warning[/] the node runs as root. Give it an account of its own: "
            "deploy/emode.service does, and docs/security.md says how.",
            soft_wrap=True,
        )


def _owns(uid: int, data_dir: Path) -> bool:
    try:
        return data_dir.stat().st_uid == uid
    except OSError:  # not there yet: whoever makes it will own it
        return True


def _is_group(gid: int) -> bool:
    try:
        grp.getgrgid(gid)
    except KeyError:
        return False
    return True
