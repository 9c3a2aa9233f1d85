"""A small archive of ours, for machines without Orthanc: C-ECHO, C-STORE, C-FIND on loopback."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_node.core.errors import NodeError, ObjectUnreadable
from dicom_node.core.identity import check_received_uid
from dicom_node.dicom.services import (
    RETURNED_CLASSES,
    ULTRASOUND_CLASSES,
    transfer_syntaxes_in,
)
from dicom_node.network.adapter import send_at_once

log = logging.getLogger(__name__)

_MULTIFRAME_SECONDARY_CAPTURE = (
    "1.2.840.10008.5.1.4.1.1.7.2",  # grayscale byte
    "1.2.840.10008.5.1.4.1.1.7.4",  # true colour
)
_LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_PENDING, _CANCELLED, _UNABLE = 0xFF00, 0xFE00, 0xA900


@dataclass(frozen=True, slots=True)
class Entry:
    """What can be asked about one stored instance."""

    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str
    SOPClassUID: str
    InstanceNumber: str


def stored_path(folder: Path, sop_instance_uid: str) -> Path:
    """Where an instance is kept: a digest, because a received UID is no file name."""
    return folder / f"{hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:40]}.dcm"


class BuiltinArchive:
    """Instances in a folder, answers from memory; the folder alone is enough to start again."""

    def __init__(self, folder: Path, aet: str, callers: tuple[str, ...] = ()) -> None:
        """Read what `folder` holds; `callers` are the AE titles that may associate, none named: any."""
        self._folder = folder
        self._aet = aet
        self._callers = callers
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        found = (_entry(path.read_bytes()) for path in folder.glob("*.dcm"))
        self._entries = {entry.SOPInstanceUID: entry for entry in found}

    def serve(self, port: int = 0) -> Any:
        """Listen on 127.0.0.1 in threads of this process; return pynetdicom's server."""
        ae = AE(ae_title=self._aet)
        ae.require_calling_aet = list(self._callers)
        ae.require_called_aet = True
        ae.add_supported_context(Verification)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        # It only keeps what comes, so it needs no decoder, and takes what the node itself may not.
        syntaxes = list(
            dict.fromkeys(
                (*transfer_syntaxes_in(), str(JPEGLosslessSV1), str(JPEGLossless), str(JPEGExtended12Bit))
            )
        )
        for sop_class in (*ULTRASOUND_CLASSES, *RETURNED_CLASSES, *_MULTIFRAME_SECONDARY_CAPTURE):
            if sop_class not in {context.abstract_syntax for context in ae.supported_contexts}:
                ae.add_supported_context(sop_class, syntaxes)
        handlers = [
            (evt.EVT_CONN_OPEN, send_at_once),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
        ]
        return ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)

    def _on_store(self, event: Any) -> int:
        content = bytes(event.encoded_dataset())
        try:
            entry = _entry(content)
        except NodeError as problem:
            log.warning("instance refused", extra={"action": "store_refused", "code": problem.code})
            return problem.dimse_status
        with self._lock:
            # As Orthanc does: what is archived never changes, and sending it again is no error.
            if entry.SOPInstanceUID not in self._entries:
                path = stored_path(self._folder, entry.SOPInstanceUID)
                part = path.with_suffix(".part")
                part.write_bytes(content)
                part.replace(path)
                self._entries[entry.SOPInstanceUID] = entry
        return 0x0000

    def _on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        asked: Dataset = event.identifier
        level = str(asked.get("QueryRetrieveLevel", ""))
        if level not in _LEVELS:
            yield _UNABLE, None
            return
        with self._lock:
            entries = list(self._entries.values())
        seen: set[str] = set()
        for entry in entries:
            key = str(getattr(entry, _LEVELS[level]))
            if key in seen or not _matches(asked, entry):
                continue
            if event.is_cancelled:
                yield _CANCELLED, None
                return
            seen.add(key)
            yield _PENDING, _answer(asked, entry, level, self._aet)


def _entry(content: bytes) -> Entry:
    keywords = list(Entry.__dataclass_fields__)
    try:
        ds = dcmread(BytesIO(content), specific_tags=list(keywords), stop_before_pixels=True)
        values = {keyword: str(ds.get(keyword) or "") for keyword in keywords}
    except (InvalidDicomError, EOFError, OSError, ValueError, KeyError, NotImplementedError) as problem:
        raise ObjectUnreadable(type(problem).__name__) from problem
    for keyword in keywords[:4]:
        check_received_uid(keyword, values[keyword])
    return Entry(**values)


def _matches(asked: Dataset, entry: Entry) -> bool:
    """Single value, list of UID and universal matching (PS3.4 C.2.2.2) on the three UIDs."""
    for keyword in _LEVELS.values():
        value = asked.get(keyword)
        wanted = [str(each) for each in value] if isinstance(value, MultiValue) else [str(value or "")]
        if wanted != [""] and getattr(entry, keyword) not in wanted:
            return False
    return True


def _answer(asked: Dataset, entry: Entry, level: str, aet: str) -> Dataset:
    """Every key that was asked for: filled where it is known at this level, else empty (PS3.4 C.2.2.1)."""
    levels = list(_LEVELS)
    known = set(list(_LEVELS.values())[: levels.index(level) + 1])
    if level == "IMAGE":
        known |= {"SOPClassUID", "InstanceNumber"}
    answer = Dataset()
    answer.QueryRetrieveLevel = level
    answer.RetrieveAETitle = aet
    for element in asked:
        if element.keyword in known:
            setattr(answer, element.keyword, getattr(entry, element.keyword) or None)
        elif element.keyword not in ("QueryRetrieveLevel", "SpecificCharacterSet"):
            answer.add_new(element.tag, element.VR, [] if element.VR == "SQ" else None)
    return answer
