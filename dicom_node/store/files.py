"""Files on disk: written aside, synced, renamed into place. Names come from our own digests only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dicom_node.disk import sync

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are under the data folder."""

    root: Path

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "state.sqlite"

    @property
    def incoming(self) -> Path:
        """Objects still arriving and results still being written; on the same file system as the rest."""
        return self.root / "incoming"

    @property
    def locks(self) -> Path:
        """Kernel locks that tell whether a process of ours is alive. They hold no state."""
        return self.root / "locks"

    @property
    def bells(self) -> Path:
        """Named pipes that wake a waiting loop. Losing one costs a second, nothing else."""
        return self.root / "bells"

    @property
    def peer_certificates(self) -> Path:
        """What is known of the certificates that peers showed. Nothing depends on it."""
        return self.root / "peer-certificates.json"

    @property
    def audit(self) -> Path:
        """The audit trail: its segments, its head, how far a collector has it."""
        return self.root / "audit"

    def full_sign(self, role: str) -> Path:
        """Locked while this role's process refuses work for want of room."""
        return self.locks / f"{role}-full.lock"

    def lock(self, role: str) -> Path:
        """The lock of one role's process."""
        return self.locks / f"{role}.lock"

    def source(self, digest: str) -> Path:
        """The received object with this digest."""
        return self._place("source", digest)

    def result(self, digest: str) -> Path:
        """The emitted object with this digest."""
        return self._place("result", digest)

    def _place(self, kind: str, digest: str) -> Path:
        # Two levels keep folders small: 256 of them, a few thousand files each for a million images.
        return self.root / kind / digest[:2] / f"{digest}.dcm"

    def create(self) -> None:
        """Make the folders, readable by this user alone."""
        for folder in (self.root, self.incoming, self.locks, self.bells):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def create_result_places(self) -> None:
        """Make every folder that results may go to, durable: `place_file` has then one to sync instead of
        three. For the one process that makes results; what it finds it makes sure of."""
        kind = self.root / "result"
        kind.mkdir(exist_ok=True, mode=0o700)
        for number in range(256):
            (kind / f"{number:02x}").mkdir(exist_ok=True, mode=0o700)
        sync(kind)
        sync(self.root)

    def stored(self) -> Iterator[tuple[str, str, Path]]:
        """Every kept file as (kind, digest, path)."""
        for kind in ("source", "result"):
            for path in (self.root / kind).glob("??/*.dcm"):
                yield kind, path.stem, path


def place_file(written: Path, place: Path) -> None:
    """Give a synced file its final name; on return that survives a power cut.

    Called inside the write transaction that records the file: the sweep looks for files without a row
    under the same lock, so it can never take one whose row is about to be written.

    The content of one place is always the same (its name is the content's digest), so replacing
    an existing file is harmless, and one that is there already (a commit failed after it got its name)
    is as good.
    """
    move_file(written, place)
    sync(place.parent)


def move_file(written: Path, place: Path) -> None:
    """As `place_file`, but a power cut may take the file back to the name that it has now.

    For whoever finds it there again: where the disk knows that name (`network/spool.py` has it so), and a
    start looks for what rows need (`store/adoption.py`), nothing is lost, and nobody waits for the folder.
    """
    try:
        written.replace(place)
    except FileNotFoundError:
        _make_folder(place.parent)
        try:
            written.replace(place)
        except FileNotFoundError:
            if not place.exists():
                raise


def _make_folder(folder: Path) -> None:
    """Make a folder of `_place` durable; it is there already if a file is missing instead."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sync(folder.parent.parent)
        sync(folder.parent)


def digest_from(path: Path, offset: int, prefix: str) -> tuple[str, int]:
    """SHA-256 over `prefix` and the file from `offset` to its end; also the size of the whole file."""
    digest = hashlib.sha256(prefix.encode())
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(_BLOCK):
            digest.update(block)
        return digest.hexdigest(), file.tell()
