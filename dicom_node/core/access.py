"""Who may do what: roles of people, and the least role for each action. Knows nothing of how they log in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from dicom_node.core.errors import AccessDenied


class Role(IntEnum):
    """What somebody may do; each includes the ones before."""

    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """For people."""
        return self.name.lower()


class Action(StrEnum):
    """What people can do to a node."""

    VIEW_STUDIES = "look at studies"
    VIEW_JOBS = "look at jobs"
    ASK_PEER = "let the node call a destination"
    RETRY_JOB = "retry jobs"
    CANCEL_JOB = "cancel jobs"
    SET_BREAKER = "open or close a circuit breaker"
    SERVE = "run the node"
    CONFIGURE = "change the configuration"
    READ_AUDIT = "read the audit trail"
    PURGE = "delete studies"


LEAST_ROLE: Mapping[Action, Role] = {
    Action.VIEW_STUDIES: Role.VIEWER,
    Action.VIEW_JOBS: Role.VIEWER,
    Action.ASK_PEER: Role.OPERATOR,
    Action.RETRY_JOB: Role.OPERATOR,
    Action.CANCEL_JOB: Role.OPERATOR,
    Action.SET_BREAKER: Role.OPERATOR,
    Action.SERVE: Role.ADMIN,
    Action.CONFIGURE: Role.ADMIN,
    Action.READ_AUDIT: Role.ADMIN,
    Action.PURGE: Role.ADMIN,
}


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, as the login tells."""

    name: str
    groups: frozenset[str] = frozenset()
    how: str = ""
    """How they came to the account in use, for the record: "sudo"."""
    runs_the_node: bool = False
    """The account that the service itself runs under; it may serve, and nothing else by itself."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who has which role: user names, and names of groups after an @. Nobody listed: no roles in use."""

    granted: Mapping[Role, frozenset[str]] = field(default_factory=dict)

    @property
    def in_use(self) -> bool:
        """False: whoever can read the data folder may do everything."""
        return any(self.granted.values())

    def role_of(self, person: Person) -> Role:
        """The highest role that the person, or a group of theirs, was given."""
        if not self.in_use:
            return Role.ADMIN
        names = {person.name, *(f"@{group}" for group in person.groups)}
        return max((role for role, given in self.granted.items() if names & given), default=Role.NOBODY)

    def require(self, person: Person, action: Action) -> None:
        """Return if the person may do this, else raise AccessDenied, which says who can change that."""
        least, has = LEAST_ROLE[action], self.role_of(person)
        if has >= least or (action is Action.SERVE and person.runs_the_node):
            return
        admins = ", ".join(sorted(self.granted.get(Role.ADMIN, ()))) or "nobody yet"
        is_a = f"is {_a(has)}" if has else "has no role here"
        raise AccessDenied(
            f"to {action} takes the role {least.word}; {person.name} {is_a}. "
            f"An admin ({admins}) can grant it under access in the configuration"
        )


def _a(role: Role) -> str:
    return f"{'an' if role.word[0] in 'ao' else 'a'} {role.word}"
