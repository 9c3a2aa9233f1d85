"""Which faults, in which order: drawn from a seed, every kind and every named step often enough."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.core.faults import STEPS

SHARES: dict[str, float] = {
    "kill receiver": 0.21,
    "kill courier": 0.15,
    "kill worker": 0.07,
    "kill supervisor": 0.02,
    "kill everything": 0.03,
    "kill at a named step": 0.26,
    "no space at a named step": 0.04,
    "disk full": 0.04,
    "database locked": 0.03,
    "clock set": 0.04,
    "archive killed": 0.03,
    "archive paused": 0.02,
    "sender's line cut": 0.03,
    "archive's line cut": 0.03,
}
"""Kind of fault -> its share of a campaign. What costs a new process of the worker (torch) is rarer."""

STARVED_STEPS = (
    "receive.spooled",
    "receive.synced",
    "receive.placed",
    "receive.recorded",
    "receive.committed",
    "infer.written",
    "infer.synced",
    "infer.placed",
    "infer.recorded",
    "deliver.recorded",
    "confirm.recorded",
    "settle.changed",
    "takeback.changed",
)
"""Steps at which a write may find the disk full."""

LANES = ("receiver", "worker", "courier", "supervisor", "disk", "clock", "archives", "lines")
"""Faults of one lane follow each other; lanes run side by side, so that faults meet recoveries."""

_LANE_OF_KIND = {
    "kill receiver": "receiver",
    "kill courier": "courier",
    "kill worker": "worker",
    "kill supervisor": "supervisor",
    "kill everything": "supervisor",
    "disk full": "disk",
    "database locked": "disk",
    "clock set": "clock",
    "archive killed": "archives",
    "archive paused": "archives",
    "sender's line cut": "lines",
    "archive's line cut": "lines",
}

_LANE_OF_STEP = {"receive": "receiver", "infer": "worker", "report": "receiver", "supervisor": "supervisor"}
_ANY_ROLE = ("role", "migrate")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that will go wrong."""

    kind: str
    lane: str
    step: str | None = None


def draw_plan(count: int, seed: int, without: tuple[str, ...] = ()) -> dict[str, list[Fault]]:
    """Draw `count` faults; return them by lane, in order.

    without  kinds to leave out.
    """
    dice = random.Random(seed)
    shares = {kind: share for kind, share in SHARES.items() if kind not in without}
    faults = []
    steps = {
        "kill at a named step": _forever([name for name, _ in STEPS], dice),
        "no space at a named step": _forever(list(STARVED_STEPS), dice),
    }
    for kind, number in _apportion(count, shares).items():
        for _ in range(number):
            step = next(steps[kind]) if kind in steps else None
            faults.append(Fault(kind, _lane(kind, step, dice), step))
    dice.shuffle(faults)
    return {lane: [fault for fault in faults if fault.lane == lane] for lane in LANES}


def _apportion(count: int, shares: dict[str, float]) -> dict[str, int]:
    """Whole numbers that add up to `count`; at least one of each kind where that is possible."""
    if count < len(shares):
        return dict.fromkeys(list(shares)[:count], 1)
    total = sum(shares.values())
    numbers = {kind: max(1, int(count * share / total)) for kind, share in shares.items()}
    largest = max(shares, key=lambda kind: shares[kind])
    numbers[largest] += count - sum(numbers.values())
    return numbers


def _forever(names: list[str], dice: random.Random) -> Iterator[str]:
    while True:
        yield from dice.sample(names, len(names))


def _lane(kind: str, step: str | None, dice: random.Random) -> str:
    if step is None:
        return _LANE_OF_KIND[kind]
    room = step.partition(".")[0]
    if room in _ANY_ROLE:
        return dice.choice(("receiver", "courier", "worker"))
    return _LANE_OF_STEP.get(room, "courier")
