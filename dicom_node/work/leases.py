"""Which leases have ended, by a clock that nobody can set."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

_ENDS_AFTER_S = 120.0
"""Several times what a busy database may take, so that a renewal is never too late."""
_LONGEST_GAP_S = 45.0
"""Between two looks; after a longer one we know nothing, for we may have been stopped like the holders."""


class LeaseWatch:
    """A lease has ended when it stayed as it was for long enough, by the monotonic clock.

    Not by the time written in it: a clock set forward by an hour would end every lease at once, one set
    back would keep the dead alive. And only while the database takes writes, without which nobody can
    renew: `forget` is called when it does not.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._since: dict[str, tuple[datetime, float]] = {}
        self._last_look_s: float | None = None

    def forget(self) -> None:
        """The database did not take a write: start counting anew."""
        self._since.clear()

    def ended(self, leases: Mapping[str, datetime], at_s: float) -> Collection[str]:
        """Note the leases in force (token -> until) at a monotonic time; return those that have ended."""
        if self._last_look_s is None or at_s - self._last_look_s > _LONGEST_GAP_S:
            self.forget()
        self._last_look_s = at_s
        self._since = {
            token: known if (known := self._since.get(token)) and known[0] == until else (until, at_s)
            for token, until in leases.items()
        }
        return [token for token, (_, since) in self._since.items() if at_s - since >= _ENDS_AFTER_S]
