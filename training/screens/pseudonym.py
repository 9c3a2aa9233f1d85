"""Groups that no split parts, as keyed pseudonyms: the same patient always, and nobody without the key."""

import hmac
import os
import re
import secrets
from pathlib import Path, PurePath

from training.errors import SettingsInvalid
from training.screens.settings import BY_FOLDER, BY_PATIENT

_KEY_BYTES = 32
_DIGITS = 16


def read_or_make_key(path: Path) -> bytes:
    """Read the secret key, or make one that only its owner can read.

    Raises SettingsInvalid if others can read it, or if it is too short to be secret.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
    if path.stat().st_mode & 0o077:
        raise SettingsInvalid(
            f"key {path} can be read by others than its owner; chmod 600 it, or use another"
        )
    key = path.read_text(encoding="ascii", errors="replace").strip().encode()
    if len(key) < _KEY_BYTES:
        raise SettingsInvalid(f"key {path} is shorter than {_KEY_BYTES} characters")
    return key


def pseudonym(key: bytes, kind: str, name: str) -> str:
    """Return the pseudonym of a name: HMAC-SHA-256, 64 bits; kinds of names never meet."""
    return hmac.new(key, f"{kind}:{name}".encode(), "sha256").hexdigest()[:_DIGITS]


def group_of(key: bytes, rule: str, path: PurePath, patient: str) -> str | None:
    """Return the group of a screen, or None if the rule finds nobody.

    path     below the folder of screens.
    patient  PatientID, empty where there is none.
    """
    if rule == BY_PATIENT:
        return pseudonym(key, "patient", patient) if patient else None
    if rule == BY_FOLDER:
        # The topmost one: visits of a patient may lie in folders of their own, and must not be parted.
        return pseudonym(key, "path", path.parts[0]) if len(path.parts) > 1 else None
    found = re.search(rule, path.as_posix())
    return pseudonym(key, "path", found[1]) if found and found[1] else None
