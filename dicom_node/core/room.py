"""Room on the data disk: two watermarks, so that a node at its limit does not say yes and no by turns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RoomState(StrEnum):
    """What is done with new work."""

    TAKING = "taking"
    REFUSING = "refusing"


class Level(StrEnum):
    """Free space, measured at the watermarks."""

    SCARCE = "scarce"
    """Below the low one."""
    BETWEEN = "between"
    AMPLE = "ample"
    """At the high one or above."""


ROOM_TRANSITIONS: dict[tuple[RoomState, Level], RoomState] = {
    (RoomState.TAKING, Level.SCARCE): RoomState.REFUSING,
    (RoomState.TAKING, Level.BETWEEN): RoomState.TAKING,
    (RoomState.TAKING, Level.AMPLE): RoomState.TAKING,
    (RoomState.REFUSING, Level.SCARCE): RoomState.REFUSING,
    (RoomState.REFUSING, Level.BETWEEN): RoomState.REFUSING,
    (RoomState.REFUSING, Level.AMPLE): RoomState.TAKING,
}


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Bytes of free space: work is refused below `low`, and taken again from `resume` on."""

    low: int
    resume: int

    def level(self, free: int) -> Level:
        """Where this much free space stands."""
        if free < self.low:
            return Level.SCARCE
        return Level.BETWEEN if free < self.resume else Level.AMPLE

    def lowered(self, share: float) -> Watermarks:
        """Marks for work that may go on for longer."""
        return Watermarks(int(self.low * share), int(self.resume * share))
