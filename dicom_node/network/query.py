"""Ask an archive what it has."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.core.errors import DestinationAborted, NodeError, NoPresentationContext, QueryRefused
from dicom_node.dicom.services import status_text
from dicom_node.network.scu import RemoteAE, open_association

_PENDING = (0xFF00, 0xFF01)


Listing = set[str] | NodeError
"""The SOP Instance UIDs that an archive lists, or why it did not say."""


def listed_instances(remote: RemoteAE, series: set[tuple[str, str]]) -> dict[tuple[str, str], Listing]:
    """What the archive lists for each (study, series); one that fails does not take the others along.

    C-FIND, Study Root, IMAGE level, with the unique keys of the levels above (PS3.4 C.4.1).
    Raises QueryRefused if it takes no such query at all, and what `open_association` raises.
    """
    try:
        association = open_association(remote, [build_context(StudyRootQueryRetrieveInformationModelFind)])
    except NoPresentationContext as error:
        raise QueryRefused(
            f"{remote}: does not let us use Study Root C-FIND; set `confirm: none` or have it allowed"
        ) from error
    try:
        return {pair: _listing(remote, association, *pair) for pair in sorted(series)}
    finally:
        if association.is_established:
            association.release()


def _listing(remote: RemoteAE, association: Association, study: str, series: str) -> Listing:
    try:
        return _find(remote, association, study, series)
    except NodeError as error:
        return error
    except (RuntimeError, ValueError) as error:  # the association ended under us
        return DestinationAborted(f"{remote}: {type(error).__name__} while querying")


def _find(remote: RemoteAE, association: Association, study: str, series: str) -> set[str]:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study
    query.SeriesInstanceUID = series
    query.SOPInstanceUID = ""
    found = set()
    for status, match in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
        if "Status" not in status:
            raise QueryRefused(f"{remote}: no answer to C-FIND")
        if status.Status in _PENDING:
            if match is not None and "SOPInstanceUID" in match:
                found.add(str(match.SOPInstanceUID))
        elif status.Status != 0x0000:
            raise QueryRefused(f"{remote}: C-FIND answered {status_text(status.Status)}")
    return found
