"""A data set on its way to the disk: if it is too large, or the disk too full, its sender hears so."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dicom_node.core.errors import NodeError, ObjectTooLarge, StorageFull

_LOOK_EVERY = 8 << 20
"""Bytes between two looks at the free space; times the associations, it has to stay below the reserve."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Where objects are spooled and how far.

    folder        on the data disk; what a killed process left there is removed at the next start
    object_bytes  largest object
    require_room  raises StorageFull when the disk has no room for another object
    """

    folder: Path
    object_bytes: int
    require_room: Callable[[], None]


class Spool:
    """The file of one data set. Writing never raises: what went wrong is `failure`, and the rest is dropped.

    The association stays usable: the peer's data set is read to its end and answered, and no partial file
    is left. Takes the place of the temporary file that pynetdicom opens, whose `write` raises into the
    thread that reads PDUs, so that the association ends without an answer. `name` and `close` are
    what pynetdicom uses of a file.
    """

    def __init__(self, limits: SpoolLimits) -> None:
        """Open the file, or have `failure`."""
        self._limits = limits
        self._size = 0
        self._next_look = 0
        self._descriptor: int | None = None
        self.failure: NodeError | None = None
        self.name = ""
        try:
            self._descriptor, self.name = tempfile.mkstemp(suffix=".dcm", dir=limits.folder)
        except OSError as error:
            self._give_up(_full(error))

    def write(self, some: bytes) -> int:
        """Keep these bytes, or drop them."""
        self._size += len(some)
        if self.failure is None:
            try:
                self._keep(some)
            except NodeError as error:
                self._give_up(error)
            except OSError as error:
                self._give_up(_full(error))
        return len(some)

    def close(self) -> None:
        """Free the descriptor; the file stays."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                os.close(descriptor)
            except OSError as error:  # some file systems say only here that there was no room
                self._give_up(_full(error))

    def remove(self) -> None:
        """Free the descriptor and remove the file, if it is still there."""
        self.close()
        if self.name:
            with suppress(OSError):
                Path(self.name).unlink()

    def _keep(self, some: bytes) -> None:
        if self._size > self._limits.object_bytes:
            raise ObjectTooLarge(
                f"more than {self._limits.object_bytes} bytes; limits.object_mib allows no larger object"
            )
        if self._size > self._next_look:
            self._limits.require_room()
            self._next_look = self._size + _LOOK_EVERY
        assert self._descriptor is not None
        left = memoryview(some)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _give_up(self, failure: NodeError) -> None:
        if self.failure is None:
            self.failure = failure
        self.remove()


def _full(error: OSError) -> StorageFull:
    """Whatever the disk's trouble is, it is ours, and the sender shall try again."""
    return StorageFull(
        f"{errno.errorcode.get(error.errno or 0, 'OSError')} while receiving; look at the data disk"
    )
