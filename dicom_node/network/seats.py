"""How many associations there may be: in all, and of one peer, so that nobody takes everybody's."""

from __future__ import annotations

import threading
from collections import Counter


class Seats:
    """A seat for each admitted association. Safe to use from any thread."""

    def __init__(self, total: int, per_peer: int) -> None:
        """All seats are free."""
        self._total = total
        self._per_peer = per_peer
        self._taken: dict[object, object] = {}
        self._of_peer: Counter[object] = Counter()
        self._lock = threading.Lock()

    def take(self, guest: object, peer: object) -> str | None:
        """Give `guest` a seat of `peer`; or say in words, for the log, why there is none."""
        with self._lock:
            if len(self._taken) >= self._total:
                return "too many associations at once"
            if self._of_peer[peer] >= self._per_peer:
                return "too many associations of this peer at once"
            self._taken[guest] = peer
            self._of_peer[peer] += 1
            return None

    def leave(self, guest: object) -> None:
        """Free the guest's seat, if it has one."""
        with self._lock:
            peer = self._taken.pop(guest, None)
            if peer is not None:
                self._of_peer[peer] -= 1
                if not self._of_peer[peer]:
                    del self._of_peer[peer]
