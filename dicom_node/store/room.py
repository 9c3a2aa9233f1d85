"""Whether there is room for new work, said once at each change and shown to other processes."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
from pathlib import Path

from dicom_node.core.errors import StorageFull
from dicom_node.core.room import ROOM_TRANSITIONS, RoomState, Watermarks

log = logging.getLogger(__name__)


class DiskRoom:
    """Free space on the file system of a folder, held against two watermarks.

    Objects that are still arriving count by what they have written: whoever spools asks again on the way,
    so that many of them together cannot pass the mark unseen.
    """

    def __init__(self, folder: Path, marks: Watermarks, sign: Path, work: str) -> None:
        """Measure for the first time.

        sign  locked while work is refused: other processes look with `process.is_held`. A kernel lock,
              since a full disk may not take a row, and since a kill ends it. Several processes that do the
              same work have one sign: the first that refuses holds it, and speaks for all.
        work  what is refused, for the log.
        """
        self._folder, self._marks, self._work = folder, marks, work
        self._state = RoomState.TAKING
        self._lock = threading.Lock()
        self._sign = os.open(sign, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._holds_sign = False
        self.has_room()

    def has_room(self) -> bool:
        """Measure, and say whether new work may be taken."""
        free = shutil.disk_usage(self._folder).free
        with self._lock:
            self._state = ROOM_TRANSITIONS[self._state, self._marks.level(free)]
            if self._holds_sign is not (self._state is RoomState.REFUSING):
                self._tell(free)
            return self._state is RoomState.TAKING

    def require(self) -> None:
        """Raise StorageFull unless there is room."""
        if not self.has_room():
            raise StorageFull(
                f"taken again above {self._marks.resume >> 20} MiB free; make room on the data disk"
            )

    def close(self) -> None:
        """Take the sign down."""
        os.close(self._sign)

    def _tell(self, free: int) -> None:
        refusing = self._state is RoomState.REFUSING
        try:
            fcntl.flock(self._sign, (fcntl.LOCK_EX if refusing else fcntl.LOCK_UN) | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another process holds it, or somebody looks at it: asked again at the next look
        self._holds_sign = refusing
        log.log(
            logging.ERROR if refusing else logging.WARNING,
            f"no room on the data disk: {self._work} refused"
            if refusing
            else f"room on the data disk again: {self._work} taken",
            extra={"action": "disk-full" if refusing else "disk-has-room", "mib": free >> 20},
        )
