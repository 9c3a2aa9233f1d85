"""How long the step in hand has been going on: what a watchdog can look at from another thread."""

from __future__ import annotations

import time


class Pulse:
    """Steps of one batch, by the monotonic clock.

    A batch of many slow images is many steps, each with the whole time limit; one image that hangs is one
    step that does not end, and is found once the others of its batch are done.
    """

    def __init__(self) -> None:
        """The first step begins."""
        self._since = time.monotonic()

    def step(self) -> None:
        """The next step begins."""
        self._since = time.monotonic()

    def seconds(self) -> float:
        """How long the step in hand has taken so far."""
        return time.monotonic() - self._since
