"""Empty files that wait for objects: made, and known to the disk, while no sender waits for them."""

from __future__ import annotations

import os
import re
import uuid
from collections import deque
from contextlib import suppress
from pathlib import Path

from dicom_node.disk import sync

_NAME = re.compile(r"tmp(\d+)-[0-9a-f]{32}\.dcm|tmp[0-9a-f]{32}\.dcm")
"""Files of earlier versions have no number; there was one process then."""

_MOST = 8
"""Empty files of one association, and descriptors with them. A sync of their folder is for several."""

Blank = tuple[Path, int]
"""The path of an empty file, and its descriptor."""


def new_path(folder: Path, number: int) -> Path:
    """A name that no other file has; number is that of the process."""
    return folder / f"tmp{number}-{uuid.uuid4().hex}.dcm"


def spooled_in(folder: Path) -> list[tuple[Path, int]]:
    """The spooled files that lie in a folder, each with the number of the process that made it."""
    named = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir())
    return [(path, int(name[1] or 1)) for path, name in named if name]


def create_file(path: Path) -> int:
    """Make an empty file and return its descriptor; the disk need not know of it. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


class BlankFiles:
    """Those of one association. Each has a name that the disk knows once it can be taken: see `Spool`.

    There are no more than objects have come over it, or than `_MOST`. Each object makes one for later, and a
    sync comes when those of the last one are used up.
    """

    def __init__(self, folder: Path, number: int) -> None:
        """None, until `prepare` is called.

        number  of the process, for the names
        """
        self._folder, self._number = folder, number
        self._synced: deque[Blank] = deque()
        self._made: deque[Blank] = deque()
        self._wanted = 0

    def prepare(self) -> None:
        """An object has come: be ready for the next. What goes wrong will be said when one is needed."""
        self._wanted = min(self._wanted + 1, _MOST)
        with suppress(OSError):
            while len(self._synced) + len(self._made) < self._wanted:
                path = new_path(self._folder, self._number)
                self._made.append((path, create_file(path)))
            if not self._synced:
                sync(self._folder)
                self._synced, self._made = self._made, self._synced

    def take(self) -> Blank | None:
        """One of them, which is the caller's now; None if there is none."""
        return self._synced.popleft() if self._synced else None

    def remove(self) -> None:
        """Nothing more will come."""
        for path, descriptor in (*self._synced, *self._made):
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
        self._synced.clear()
        self._made.clear()
