"""AE titles, UIDs, routes."""

import re

import pytest

from dicom_node.core.errors import DestinationRefused, InvalidUid, NodeError
from dicom_node.core.identity import (
    IMPLEMENTATION_CLASS_UID,
    check_received_uid,
    derive_uid,
    is_ae_title,
    is_loopback,
    is_uid,
)
from dicom_node.core.image import Arrival, ImageHeader
from dicom_node.core.rules import Match, Route, choose_route

HEADER = ImageHeader(
    "1.2.840.10008.5.1.4.1.1.6.1", "1.2.3", "1.2", "1.2.1", "1.2.840.10008.1.2.1", modality="US"
)
ARRIVAL = Arrival("PACS", "EMODE", "127.0.0.1")


@pytest.mark.parametrize("title", ["A", "EMODE", "emode 1", "X" * 16, "A-B_c.d"])
def test_legal_ae_titles(title):
    assert is_ae_title(title)


@pytest.mark.parametrize("title", ["", "    ", "X" * 17, "A\\B", "A\nB", "ÄE"])
def test_illegal_ae_titles(title):
    assert not is_ae_title(title)


@pytest.mark.parametrize("uid", ["1.2", "2.25.0", "1.2.840.10008.1.1", "1." + "2" * 62])
def test_legal_uids(uid):
    assert is_uid(uid)
    assert check_received_uid("SOP Instance UID", uid) == uid


@pytest.mark.parametrize("uid", ["", "1", "1.02", "1..2", "1.2.", "../escaped", "1.2\x00", "1." + "2" * 63])
def test_illegal_uids(uid):
    assert not is_uid(uid)


@pytest.mark.parametrize("uid", ["../escaped", "1.2/3", "", "1.2\x00", "9" * 70])
def test_a_received_uid_with_anything_but_digits_and_dots_is_refused(uid):
    with pytest.raises(InvalidUid, match="SOP Instance UID is"):
        check_received_uid("SOP Instance UID", uid)


def test_leading_zeros_of_old_scanners_pass():
    assert check_received_uid("Study Instance UID", "1.2.03.4") == "1.2.03.4"


def test_derived_uids_are_stable_forever():
    # A changed value here would make every archive keep a second copy of every result.
    assert derive_uid("sop-instance", {"source": "1.2.3", "pane": 0}) == (
        "2.25.173699121295966620493893152470856176186"
    )
    assert derive_uid("series", {"source": "1.2.3", "pane": 0}) != derive_uid(
        "sop-instance", {"source": "1.2.3", "pane": 0}
    )
    assert derive_uid("series", {"b": 1, "a": 2}) == derive_uid("series", {"a": 2, "b": 1})
    assert is_uid(IMPLEMENTATION_CLASS_UID)


def route(name, **match):
    return Route(name, "EMODE", "default", ("archive",), match=Match(**match))


def test_the_first_route_that_fits_takes_the_image():
    choice = choose_route((route("a", modality=("MG",)), route("b"), route("c")), HEADER, ARRIVAL)
    assert choice.route is not None
    assert choice.route.name == "b"
    assert choice.passed_over == (("a", "modality is US, wanted MG"),)


def test_routes_of_other_ae_titles_are_not_even_tried():
    other = Arrival("PACS", "OTHER", "127.0.0.1")
    assert choose_route((route("a"),), HEADER, other) == choose_route((), HEADER, other)


def test_an_absent_body_part_matches_the_empty_string_only():
    assert Match(body_part=("BREAST", "")).mismatch(HEADER, ARRIVAL) is None
    assert Match(body_part=("breast",)).mismatch(HEADER, ARRIVAL) == "body part is absent, wanted BREAST"


def test_a_mismatch_by_description_never_quotes_the_description():
    named = ImageHeader(**{**_fields(HEADER), "study_description": "Thyroid of Mrs Doe"})
    why = Match(description_not=re.compile("thyroid", re.I)).mismatch(named, ARRIVAL)
    assert why == "a description matches 'thyroid'"


def test_an_error_says_its_sentence_then_the_facts():
    error = DestinationRefused("PACS: 0xA900")
    assert str(error) == "The destination answered, but would not store the instance: PACS: 0xA900"
    assert error.code == "destination-refused"


def test_every_error_has_its_own_sentence():
    classes = set(_tree(NodeError))
    sentences = {cls.__doc__ for cls in classes}
    assert len(sentences) == len(classes)


def _tree(cls):
    yield cls
    for sub in cls.__subclasses__():
        yield from _tree(sub)


def _fields(header):
    return {name: getattr(header, name) for name in header.__slots__}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_what_only_this_machine_reaches(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "emode.local", ""])
def test_what_others_may_reach(host):
    assert not is_loopback(host)
