"""Ask an archive what it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.core.errors import (
    DestinationAborted,
    DestinationSilent,
    NodeError,
    NoPresentationContext,
    QueryRefused,
)
from dicom_node.dicom.services import TRANSFER_SYNTAXES_OUT, status_text
from dicom_node.network.command import c_find_request
from dicom_node.network.line import Line
from dicom_node.network.requestor import RemoteAE, Requestor, open_association

_PENDING = (0xFF00, 0xFF01)
_LONGEST_LIST = 100
"""UIDs in one question; a series of a thousand frames is asked for as a whole."""

_PROPOSED = [
    (str(StudyRootQueryRetrieveInformationModelFind), str(syntax)) for syntax in TRANSFER_SYNTAXES_OUT
]

Series = tuple[str, str]
"""Study Instance UID and Series Instance UID."""

Listing = set[str] | NodeError
"""The SOP Instance UIDs that an archive lists, or why it did not say."""


def listed_instances(line: Line, wanted: Mapping[Series, set[str]]) -> dict[Series, Listing]:
    """What the archive lists of these instances, and maybe more; one series that fails takes no other along.

    C-FIND, Study Root, IMAGE level, with the unique keys of the levels above (PS3.4 C.4.1).
    Raises QueryRefused if it takes no such query at all, and what `open_association` raises.
    """
    association, was_kept = _take(line)
    listed = _listings(line.remote, association, wanted)
    if was_kept and not association.is_open:  # ended while nobody used it: asked once more
        association, _ = _take(line)
        listed = _listings(line.remote, association, wanted)
    if any(isinstance(each, NodeError) for each in listed.values()):
        line.close()  # what is asked after a failure is asked from the beginning
    return listed


def _take(line: Line) -> tuple[Requestor, bool]:
    try:
        return line.take(_PROPOSED)
    except NoPresentationContext as error:
        raise _not_let(line.remote) from error


def _listings(
    remote: RemoteAE, association: Requestor, wanted: Mapping[Series, set[str]]
) -> dict[Series, Listing]:
    return {
        pair: _listing(remote, association, *pair, instances) for pair, instances in sorted(wanted.items())
    }


def open_to_query(remote: RemoteAE) -> Requestor:
    """An association for `find`; raises QueryRefused, and what `open_association` raises."""
    try:
        return open_association(remote, [build_context(StudyRootQueryRetrieveInformationModelFind)])
    except NoPresentationContext as error:
        raise _not_let(remote) from error


def _not_let(remote: RemoteAE) -> QueryRefused:
    return QueryRefused(
        f"{remote}: does not let us use Study Root C-FIND; set `confirm: none` or have it allowed"
    )


def find(remote: RemoteAE, association: Requestor, query: Dataset) -> Iterator[Dataset]:
    """The matches of one C-FIND; to be read to the end. Raises QueryRefused, or DestinationAborted."""
    context_id = association.context_of(StudyRootQueryRetrieveInformationModelFind) or 0
    syntax = UID(association.contexts[context_id].transfer_syntax)
    implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
    encoded = encode(query, implicit, little) or b""
    request = partial(c_find_request, sop_class_uid=StudyRootQueryRetrieveInformationModelFind)
    if not association.is_open:
        raise DestinationAborted(f"{remote}: the association has ended")
    try:
        reply = association.ask(context_id, request, (BytesIO(encoded), len(encoded)))
        while reply.answer.status in _PENDING:
            if reply.data_set:
                yield decode(BytesIO(reply.data_set), implicit, little)
            reply = association.reply()
    except (DestinationSilent, DestinationAborted) as error:
        # That it answers no questions says nothing about C-STORE.
        raise QueryRefused(f"{remote}: no answer to C-FIND") from error
    if reply.answer.status != 0x0000:
        raise QueryRefused(f"{remote}: C-FIND answered {status_text(reply.answer.status)}")


def _listing(
    remote: RemoteAE, association: Requestor, study: str, series: str, instances: set[str]
) -> Listing:
    """A few instances are asked for by name; those not found, and many, by the name of their series."""
    try:
        if len(instances) <= _LONGEST_LIST:
            found = _find_instances(remote, association, study, series, instances)
            # Not every archive reads a list of UIDs (PS3.4 C.2.2.2.2) as one.
            if instances <= found:
                return found
        return _find_instances(remote, association, study, series, set())
    except NodeError as error:
        return error


def _find_instances(
    remote: RemoteAE, association: Requestor, study: str, series: str, instances: set[str]
) -> set[str]:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study
    query.SeriesInstanceUID = series
    query.SOPInstanceUID = sorted(instances) or ""
    found = set()
    for match in find(remote, association, query):
        try:
            found.add(str(match.SOPInstanceUID))
        except Exception as error:
            raise QueryRefused(f"{remote}: a match without a SOP Instance UID") from error
    return found
