"""Files that hold secrets: nobody else may read them, and what is in them goes nowhere else."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from dicom_node.core.errors import SecretExposed, SecretMissing

_OTHERS = 0o077


def check_private(path: Path) -> None:
    """Make sure that only its owner, who is us, can read a file.

    Raises SecretMissing if it cannot be read at all, SecretExposed if others can read it.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise SecretMissing(f"{path}: {error.strerror}; create it, or correct the path") from None
    if not stat.S_ISREG(facts.st_mode):
        raise SecretMissing(f"{path}: is not a file; correct the path")
    others = stat.S_IMODE(facts.st_mode) & _OTHERS
    if _handed_over_by_systemd(path):
        others &= ~0o070  # the group bits there show the mask of an access list, not a group
    if others:
        mode = stat.S_IMODE(facts.st_mode)
        raise SecretExposed(f"{path}: others can read or change it (mode {mode:04o}); run: chmod 600 {path}")
    take = f"chown {_user(os.geteuid())} {path}"
    if os.geteuid() != 0 and facts.st_uid not in (0, os.geteuid()):
        # root may look at any file, and cannot tell which user the service will be.
        raise SecretExposed(f"{path}: belongs to {_user(facts.st_uid)}, who can read it; run: {take}")
    if not os.access(path, os.R_OK):
        raise SecretMissing(f"{path}: {_user(os.geteuid())} may not read it; run: {take}")


def read_secret(path: Path) -> str:
    """The first line of a file that only we can read; raises as `check_private`, and if it is empty."""
    check_private(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretMissing(f"{path}: {type(error).__name__} reading it; write the secret as text") from None
    if not lines or not lines[0]:
        raise SecretMissing(f"{path}: is empty; write the secret into its first line")
    return lines[0]


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is kept; the configuration never holds the secret itself."""

    file: Path | None = None
    variable: str | None = None
    """Name of an environment variable."""

    def read(self) -> str | None:
        """The secret, or None where none is kept; raises as `read_secret`."""
        if self.file is not None:
            return read_secret(self.file)
        if self.variable is not None:
            value = os.environ.get(self.variable)
            if not value:
                raise SecretMissing(
                    f"environment variable {self.variable}: is not set; set it for the service"
                )
            return value
        return None


def _handed_over_by_systemd(path: Path) -> bool:
    """Is it one of the unit's LoadCredential= files? Their folder can be entered by the service alone."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.is_relative_to(folder)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
