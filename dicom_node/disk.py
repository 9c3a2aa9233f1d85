"""Until the disk has it: what every part that must survive a power cut asks for."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Make a file's content durable, or the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
