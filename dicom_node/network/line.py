"""A way to one peer: an association stays open for a moment after its last use, for what comes next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pynetdicom.presentation import build_context

from dicom_node.network.requestor import RemoteAE, Requestor, open_association

_KEPT_AT_MOST_S = 300.0
"""However busy: certificates, and what the peer lets us do, are looked at when an association is opened."""

_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers from 1 to 255

Proposal = tuple[str, str]
"""An abstract syntax and the one transfer syntax that is proposed for it."""


class Line:
    """Opens associations with one peer, and keeps the latest; for one thread."""

    def __init__(
        self, remote: RemoteAE, linger_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is open.

        linger_s  seconds that an association stays open after its last use.
        clock     monotonic, in seconds.
        """
        self.remote = remote
        self._linger_s = linger_s
        self._clock = clock
        self._kept: Requestor | None = None
        self._proposed: dict[Proposal, None] = {}
        self._opened = 0.0
        self._idle_since: float | None = None

    def take(self, wanted: Sequence[Proposal]) -> tuple[Requestor, bool]:
        """An open association for which all of this was proposed; and was it open before?

        One that was may turn out to have ended at its first use: nobody listens while it is kept.
        Raises as `open_association`.
        """
        self._idle_since = None
        if self._kept is not None and self._is_fit(wanted) and self._kept.is_still_there():
            return self._kept, True
        self.close()
        together = self._proposed | dict.fromkeys(wanted)
        self._proposed = together if len(together) <= _MOST_CONTEXTS else dict.fromkeys(wanted)
        contexts = [build_context(*each) for each in list(self._proposed)[:_MOST_CONTEXTS]]
        self._kept = open_association(self.remote, contexts)
        self._opened = self._clock()
        return self._kept, False

    def rest(self) -> float:
        """Nothing has to be asked now: let go of what was kept for long enough, or was ended by the peer.

        Returns seconds until this should be called again; infinity if nothing is open.
        """
        if self._kept is None:
            return float("inf")
        now = self._clock()
        if self._idle_since is None:
            self._idle_since = now
        left_s = self._idle_since + self._linger_s - now
        if left_s > 0 and self._kept.is_still_there():
            return left_s
        self.close()
        return float("inf")

    def close(self) -> None:
        """Release what is open."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.release()

    def _is_fit(self, wanted: Sequence[Proposal]) -> bool:
        young = self._clock() - self._opened < _KEPT_AT_MOST_S
        return young and self._proposed.keys() >= set(wanted)
