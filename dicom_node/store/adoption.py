"""After a power cut: received files that are back under the name under which they were spooled.

A received file gets its final name in the transaction that records it, and nobody waits until the disk knows
that name (`store/files.py`, `move_file`). A kill changes nothing: what is renamed stays so. Only a machine
that stops can bring a file back into `incoming/`, whole and synced, while its row is there. Every process of
the node looks before it does anything else, so that nobody misses a file or takes it for garbage.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from dicom_node.core.errors import ObjectUnreadable
from dicom_node.dicom.header import load_source
from dicom_node.dicom.part10 import dataset_offset
from dicom_node.store.database import Database
from dicom_node.store.files import Layout, digest_from, place_file
from dicom_node.store.images import is_source

log = logging.getLogger(__name__)


def adopt(database: Database, layout: Layout) -> int:
    """Give the files in `incoming/` that a row needs and does not have their place; return how many.

    What is still arriving, or was never recorded, is left alone. May run beside living receivers: a file is
    what its content says, and who records one holds the same lock. Raises StoreBusy.
    """
    count = 0
    for path in layout.incoming.iterdir():
        with suppress(ObjectUnreadable, FileNotFoundError):  # half of an object; it has its place by now
            count += _adopt(database, layout, path)
    if count:
        log.warning("files found again after a power cut", extra={"action": "files-adopted", "count": count})
    return count


def _adopt(database: Database, layout: Layout, path: Path) -> bool:
    if not path.stat().st_size:  # waits for an object
        return False
    syntax = str(load_source(path).file_meta.TransferSyntaxUID)
    digest, _ = digest_from(path, dataset_offset(path), syntax)
    place = layout.source(digest)
    with database.write() as conn:
        if place.exists() or not is_source(conn, digest):
            return False
        place_file(path, place)
    return True
