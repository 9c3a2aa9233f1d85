"""An identity that follows its files: renewed without a restart, kept if the new files are broken."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dicom_node.core.errors import CertificateUnusable, NodeError
from dicom_node.trust.contexts import TlsFiles

log = logging.getLogger(__name__)

_AGAIN_S = 5.0
"""Seconds between two looks at files that did not serve: time alone may mend them."""
_SAY_AGAIN_S = 600.0

_Look = tuple[tuple[int, ...] | None, ...]


class Credentials:
    """Hands out a TLS context, a fresh one as soon as one of its files has changed.

    A changed file means a whole new context: what left the trust file is not trusted by the next
    connection. Open connections live on. Files that cannot be used change nothing but the log.
    """

    def __init__(self, files: TlsFiles, build: Callable[[TlsFiles], ssl.SSLContext]) -> None:
        """Prepare; the files are read when the first context is asked for."""
        self.files = files
        self._build = build
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._trouble: NodeError | None = None
        self._seen: _Look | None = None
        self._tried_at = float("-inf")
        self._said_at = float("-inf")

    @property
    def trouble(self) -> NodeError | None:
        """Why the files as they are now cannot be used, if so."""
        return self._trouble

    def context(self) -> ssl.SSLContext:
        """The context of the newest files that could be used; costs a `stat` of each.

        Raises NodeError if they never could.
        """
        with self._lock:
            self._follow()
            if self._context is None:
                raise self._trouble or CertificateUnusable(self.files.name)
            return self._context

    def try_files(self) -> None:
        """Raise what is wrong with the files as they are now; changes nothing and logs nothing."""
        self._build(self.files)

    def refresh(self, *, force: bool = False) -> None:
        """Look at the files without needing a context; `force` reads them even if nothing has changed."""
        with self._lock:
            if force:
                self._seen = None
            self._follow()

    def _follow(self) -> None:
        look = tuple(_look(path) for path in self.files.paths)
        now = time.monotonic()
        changed = look != self._seen
        if not changed and (self._trouble is None or now - self._tried_at < _AGAIN_S):
            return
        first = self._context is None
        self._tried_at = now
        try:
            self._context = self._build(self.files)
        except NodeError as error:
            self._trouble = error
            if changed or now - self._said_at > _SAY_AGAIN_S:
                self._said_at = now
                log.error(
                    "certificates cannot be used; TLS does not work until they are mended"
                    if first
                    else "changed certificates cannot be used; those from before stay in use",
                    extra={
                        "action": "certificates-unusable",
                        "use": self.files.name,
                        "code": error.code,
                        "problem": error.detail,
                    },
                )
        else:
            self._trouble = None
            log.info(
                "certificates loaded" if first else "certificates reloaded",
                extra={"action": "certificates-loaded", "use": self.files.name},
            )
        self._seen = look


def _look(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written, replaced, or given other rights; None if there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
