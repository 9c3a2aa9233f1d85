"""What became of one screen: kept beside the pairs, so that a second call goes on where the first ended."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.replacing import replacing


@dataclass(frozen=True)
class Record:
    """One screen, known by the digest of its file alone."""

    source_sha256: str
    settings_sha256: str
    """Of everything besides the file that decides what becomes of it."""
    group: str | None
    side: str | None
    pair: str | None
    """The pair's file below the output folder; None if it was rejected."""
    pair_sha256: str | None
    reason: str | None
    fact: str | None
    found: dict[str, Any]
    settings: dict[str, Any]
    """As they were stated or by default, for whoever reads the manifest."""

    @property
    def key(self) -> str:
        """What its files are called by."""
        return key_of(self.source_sha256)


def key_of(source_sha256: str) -> str:
    """Return what the files of a screen are called by."""
    return source_sha256[:16]


def write_record(path: Path, record: Record) -> None:
    """Write a record; a file that is there is whole."""
    with replacing(path) as file:
        file.write(json.dumps(asdict(record), indent=1, sort_keys=True).encode())


def read_record(path: Path) -> Record | None:
    """Read a record; None if there is none that this version can read."""
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
