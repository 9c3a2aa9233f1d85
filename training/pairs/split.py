"""Which side of a split a group falls on: told by its name alone, so that nothing can move it."""

import hashlib
from dataclasses import dataclass
from typing import Literal

Side = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class Shares:
    """Expected shares of groups; what training and validation leave is for the test."""

    training: float
    validation: float

    def __post_init__(self) -> None:
        if min(self.training, self.validation) < 0 or self.training + self.validation > 1 + 1e-9:
            raise ValueError(f"shares must be at least 0 and at most 1 in all, got {self}")


QUARTER_FOR_VALIDATION = Shares(training=0.75, validation=0.25)
"""For sets whose test is data of another origin, as for stills without elastography."""

_SALT = "emode-split-1:"
# Splits of other projects hash plain names too; with a word of our own, theirs and ours are independent.


def side_of(group: str, shares: Shares = QUARTER_FOR_VALIDATION) -> Side:
    """Return the side of a group: a patient's pseudonym, or whatever no split may part.

    It hangs on the name and the shares alone, not on order or on what else is there; so data that come
    later move no one, and shares are met as closely as chance has it.
    """
    digest = hashlib.sha256((_SALT + group).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < shares.training:
        return "training"
    # Rounding: 0.7 + 0.3 is a little less than 1, and nobody may fall into a test that has no share.
    if place < shares.training + shares.validation + 1e-9:
        return "validation"
    return "test"
