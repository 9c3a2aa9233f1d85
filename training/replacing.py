"""Files that are whole or not there: what is interrupted leaves the file that was."""

import os
from pathlib import Path
from typing import IO


class replacing:  # noqa: N801 - a context manager that reads as a verb
    """Write to a temporary file beside `path`, synchronise, and rename over it if all went well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unfinished = path.with_name(f".writing-{os.getpid()}-{path.name}")

    def __enter__(self) -> IO[bytes]:
        self.file = self.unfinished.open("wb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.file.flush()
            os.fsync(self.file.fileno())
        self.file.close()
        if kind is None:
            self.unfinished.replace(self.path)
        else:
            self.unfinished.unlink(missing_ok=True)
