"""How long local copies are kept, and what keeps one for longer, whatever its age."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class Hold(StrEnum):
    """Why a study's files must stay; the first that applies is the one that is shown."""

    RECEIVING = "receiving"
    FAILED = "failed"
    UNDECIDED = "undecided"
    PARKED = "parked"
    UNCONFIRMED = "unconfirmed"
    WAITING = "waiting"

    @property
    def sentence(self) -> str:
        """What the word means and what ends it."""
        return _SENTENCES[self]


_SENTENCES: dict[Hold, str] = {
    Hold.RECEIVING: "images may still come; it settles by itself",
    Hold.FAILED: "an image was given up; `emode jobs list --state failed` says why",
    Hold.UNDECIDED: "an image is not decided: its turn comes, or its job was cancelled (`emode jobs retry`)",
    Hold.PARKED: "a result waits for a person; `emode jobs retry` sends it again",
    Hold.UNCONFIRMED: "an archive has not confirmed a result",
    Hold.WAITING: "work is still to be done",
}


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """When proven copies go."""

    max_age: timedelta | None = None
    """After a study's last image; None: never by age."""
    max_bytes: int | None = None
    """Of all local copies together; None: no limit. The oldest studies go first."""
    accepted_is_enough: frozenset[str] = frozenset()
    """Destinations whose success status counts as proof, since nothing better can be had from them."""

    def oldest_kept(self, now: datetime) -> datetime | None:
        """Studies whose last image came before this may go by age."""
        return None if self.max_age is None else now - self.max_age
