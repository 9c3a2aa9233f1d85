"""Can this data folder carry a node? Asked before anything starts, and by `emode check`."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from dicom_node.core.errors import FolderUnfit
from dicom_node.store.database import require_usable
from dicom_node.store.files import Layout

_MOUNTS = Path("/proc/self/mountinfo")

_REMOTE = ("nfs", "cifs", "smb", "afs", "9p", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.gluster")
"""Beginnings of the types of file systems that other machines share (SQLite needs locks that hold)."""


def require_fit(layout: Layout) -> None:
    """Raise FolderUnfit, DatabaseDamaged or SchemaMismatch if a node could not work in this folder.

    A folder that is not there yet has to be creatable.
    """
    folder = layout.root
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise FolderUnfit(f"{there} is not a folder; choose another data_dir")
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise FolderUnfit(f"{there} is on a read-only file system; mount it for writing or change data_dir")
    kind = file_system_of(there)
    if kind is not None and kind.startswith(_REMOTE):
        raise FolderUnfit(
            f"{there} is on {kind}, which other machines share; choose a data_dir on a local disk"
        )
    if there == folder and folder.stat().st_uid != os.geteuid():
        owner, we = _name(folder.stat().st_uid), _name(os.geteuid())
        raise FolderUnfit(
            f"{folder} belongs to {owner}, and this is {we}; run as {owner}, or: chown -R {we} {folder}"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise FolderUnfit(f"{_name(os.geteuid())} may not write to {there}; change its mode or data_dir")
    require_usable(layout.database)


def file_system_of(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Type of the file system that a path is on, as the kernel names it; None where it does not say.

    Lines are as proc(5) has them; the last mount over a place is the one that is seen.
    """
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    best: tuple[int, str] | None = None
    for line in lines:
        mount, _, facts = line.partition(" - ")
        place = Path(mount.split()[4].replace("\\040", " "))
        if path.resolve().is_relative_to(place) and (best is None or len(place.parts) >= best[0]):
            best = (len(place.parts), facts.split()[0])
    return best and best[1]


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # a container's user without an entry
        return f"user {user}"
