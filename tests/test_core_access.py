"""Roles: every action has its least role, and each role includes the ones before."""

import pytest

from dicom_node.core.access import LEAST_ROLE, Access, Action, Person, Role
from dicom_node.core.errors import AccessDenied

ALLOWED = {
    Role.NOBODY: set(),
    Role.VIEWER: {Action.VIEW_STUDIES, Action.VIEW_JOBS},
    Role.OPERATOR: {
        Action.VIEW_STUDIES,
        Action.VIEW_JOBS,
        Action.ASK_PEER,
        Action.RETRY_JOB,
        Action.CANCEL_JOB,
        Action.SET_BREAKER,
    },
    Role.ADMIN: set(Action),
}
ACCESS = Access(
    {
        Role.VIEWER: frozenset({"vera", "@readers"}),
        Role.OPERATOR: frozenset({"otto"}),
        Role.ADMIN: frozenset({"ada", "@it"}),
    }
)
PEOPLE = {Role.NOBODY: "nemo", Role.VIEWER: "vera", Role.OPERATOR: "otto", Role.ADMIN: "ada"}


def test_every_action_has_a_least_role():
    assert set(LEAST_ROLE) == set(Action)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("action", Action)
def test_each_role_may_what_it_may(role, action):
    person = Person(PEOPLE[role])
    assert ACCESS.role_of(person) is role
    if action in ALLOWED[role]:
        ACCESS.require(person, action)
    else:
        with pytest.raises(AccessDenied) as caught:
            ACCESS.require(person, action)
        told = str(caught.value)
        assert f"takes the role {LEAST_ROLE[action].word}" in told
        assert "An admin (@it, ada) can grant it" in told


def test_the_highest_of_all_groups_counts_and_a_name_is_no_group():
    assert ACCESS.role_of(Person("x", frozenset({"readers", "it"}))) is Role.ADMIN
    assert ACCESS.role_of(Person("x", frozenset({"readers"}))) is Role.VIEWER
    assert ACCESS.role_of(Person("it")) is Role.NOBODY
    assert ACCESS.role_of(Person("x", frozenset({"ada"}))) is Role.NOBODY


def test_the_account_of_the_node_may_serve_and_nothing_else():
    service = Person("emode", runs_the_node=True)
    ACCESS.require(service, Action.SERVE)
    for action in set(Action) - {Action.SERVE}:
        with pytest.raises(AccessDenied):
            ACCESS.require(service, action)


def test_without_roles_everybody_may_everything():
    for access in (Access(), Access({Role.VIEWER: frozenset()})):
        assert not access.in_use
        for action in Action:
            access.require(Person("nemo"), action)
