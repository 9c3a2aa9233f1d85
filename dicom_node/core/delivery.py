"""Deliveries: one result on its way to one destination."""

from __future__ import annotations

from enum import StrEnum


class DeliveryState(StrEnum):
    """What is known about one result at one destination."""

    QUEUED = "queued"
    ACCEPTED = "accepted"
    """The destination answered success. It may still lose the object."""
    CONFIRMED = "confirmed"
    """The destination lists the object, or committed to it."""
    PARKED = "parked"
    """The destination will not have it; a person decides."""


class DeliveryEvent(StrEnum):
    """What can happen to a delivery."""

    STORE = "store"
    FIND = "find"
    MISS = "miss"
    REFUSE = "refuse"
    RELEASE = "release"


DELIVERY_TRANSITIONS: dict[tuple[DeliveryState, DeliveryEvent], DeliveryState] = {
    (DeliveryState.QUEUED, DeliveryEvent.STORE): DeliveryState.ACCEPTED,
    (DeliveryState.QUEUED, DeliveryEvent.REFUSE): DeliveryState.PARKED,
    (DeliveryState.ACCEPTED, DeliveryEvent.FIND): DeliveryState.CONFIRMED,
    (DeliveryState.ACCEPTED, DeliveryEvent.MISS): DeliveryState.QUEUED,  # success was a lie: send again
    (DeliveryState.ACCEPTED, DeliveryEvent.REFUSE): DeliveryState.PARKED,  # and it keeps on lying
    (DeliveryState.PARKED, DeliveryEvent.RELEASE): DeliveryState.QUEUED,  # operator
}
