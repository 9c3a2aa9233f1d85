"""A data set on its way to the disk: if it is too large, or the disk too full, its sender hears so.

Its file gets the name that it keeps for good in the transaction that records it, and nothing waits until the
disk knows that name. Until then it has one in `folder` that the disk does know: a power cut can only take the
file back there, where a start finds it (`store/adoption.py`).
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dicom_node.core.errors import NodeError, ObjectTooLarge, StorageFull
from dicom_node.disk import sync
from dicom_node.network.blanks import BlankFiles, create_file, new_path

_LOOK_EVERY = 8 << 20
"""Bytes between two looks at the free space; times the associations, it has to stay below the reserve."""

_START_EVERY = 1 << 20
"""Bytes after which the kernel is asked to begin writing: little is left to wait for at the end."""

_BEGINNING = 1 << 16
"""Bytes of a data set that stay in memory until it is served: mostly all that stands before the pixels."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Where objects are spooled and how far.

    folder        on the data disk; what a killed process left there is removed at the next start
    object_bytes  largest object
    require_room  raises StorageFull when the disk has no room for another object
    number        of the process, which is in the names of its files
    """

    folder: Path
    object_bytes: int
    require_room: Callable[[], None]
    number: int = 1


class Spool:
    """The file of one data set. Writing never raises: what went wrong is `failure`, and the rest is dropped.

    The association stays usable: the peer's data set is read to its end and answered, and no partial file
    is left. The digest is taken on the way, so that nobody has to read the file again for it.
    """

    def __init__(
        self, limits: SpoolLimits, transfer_syntax_uid: str, blanks: BlankFiles | None = None
    ) -> None:
        """Open the file, or have `failure`.

        blanks  give the file, if they have one.
        """
        self._limits = limits
        self._next_look = 0
        self._started = 0
        self._digest = hashlib.sha256(transfer_syntax_uid.encode())
        self._beginning = bytearray()
        self._descriptor: int | None = None
        self.failure: NodeError | None = None
        self.transfer_syntax_uid = transfer_syntax_uid
        self.size = 0
        made = blanks.take() if blanks is not None else None
        self._has_durable_name = made is not None
        if made is not None:
            self.path, self._descriptor = made
            return
        self.path = new_path(limits.folder, limits.number)
        try:
            self._descriptor = create_file(self.path)
        except OSError as error:
            self._give_up(_full(error))

    @property
    def digest(self) -> str:
        """As `store.files.digest_from` has it: SHA-256 over the transfer syntax and the data set."""
        return self._digest.hexdigest()

    @property
    def beginning(self) -> bytes:
        """The first bytes of the data set, so that nobody has to read them from the file."""
        return bytes(self._beginning)

    @property
    def is_all_beginning(self) -> bool:
        """Is that the whole data set?"""
        return len(self._beginning) < _BEGINNING

    def begin(self, head: bytes) -> None:
        """Write what stands before the data set."""
        self._write(memoryview(head))

    def write(self, some: memoryview) -> None:
        """Keep these bytes of the data set, or drop them."""
        self._digest.update(some)
        if len(self._beginning) < _BEGINNING:
            self._beginning += some[: _BEGINNING - len(self._beginning)]
        self._write(some)

    def end(self) -> None:
        """The data set is whole: begin to write what is left, for `sync` to find little to wait for."""
        if self.failure is None:
            self._start_writing()

    def sync(self) -> None:
        """Make the content durable, and that it lies here; the file has no final name yet. Raises OSError."""
        assert self._descriptor is not None
        os.fsync(self._descriptor)
        if not self._has_durable_name:
            sync(self._limits.folder)
            self._has_durable_name = True

    def close(self) -> None:
        """Free the descriptor; the file stays."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                os.close(descriptor)
            except OSError as error:  # some file systems say only here that there was no room
                self._give_up(_full(error))

    def remove(self) -> None:
        """Free the descriptor and remove the file, if it is still there under this name."""
        self.close()
        with suppress(OSError):
            self.path.unlink()

    def _write(self, some: memoryview) -> None:
        self.size += len(some)
        if self.failure is None:
            try:
                self._keep(some)
            except NodeError as error:
                self._give_up(error)
            except OSError as error:
                self._give_up(_full(error))

    def _keep(self, some: memoryview) -> None:
        if self.size > self._limits.object_bytes:
            raise ObjectTooLarge(
                f"more than {self._limits.object_bytes} bytes; limits.object_mib allows no larger object"
            )
        if self.size > self._next_look:
            self._limits.require_room()
            self._next_look = self.size + _LOOK_EVERY
        assert self._descriptor is not None
        while some:
            some = some[os.write(self._descriptor, some) :]
        if self.size - self._started >= _START_EVERY:
            self._start_writing()

    def _start_writing(self) -> None:
        """Let the disk work while we do something else.

        What is dirty cannot be dropped from the cache, so Linux starts to write it and keeps it; pages that
        the worker will read are not given up, as only what is new is named.
        """
        if self._descriptor is not None and hasattr(os, "posix_fadvise"):
            length = self.size - self._started
            os.posix_fadvise(self._descriptor, self._started, length, os.POSIX_FADV_DONTNEED)
            self._started = self.size

    def _give_up(self, failure: NodeError) -> None:
        if self.failure is None:
            self.failure = failure
        self.remove()


def _full(error: OSError) -> StorageFull:
    """Whatever the disk's trouble is, it is ours, and the sender shall try again."""
    return StorageFull(
        f"{errno.errorcode.get(error.errno or 0, 'OSError')} while receiving; look at the data disk"
    )
