"""Storage commitment: an archive takes over responsibility, or says why not (PS3.4 Annex J)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class CommitmentState(StrEnum):
    """Where one transaction stands: one question about one or more instances."""

    INTENDED = "intended"
    """Written down before it is asked; whether the archive has heard it is not known."""
    ASKED = "asked"
    """The archive took the question; its report is due."""
    REFUSED = "refused"
    """The archive would not take the question."""
    EXPIRED = "expired"
    """No answer or no report in time; asked anew under another UID."""
    REPORTED = "reported"
    """The archive said of each instance whether it keeps it."""


class CommitmentEvent(StrEnum):
    """What can happen to a transaction."""

    TAKE = "take"
    REFUSE = "refuse"
    EXPIRE = "expire"
    REPORT = "report"


_S, _E = CommitmentState, CommitmentEvent

COMMITMENT_TRANSITIONS: dict[tuple[CommitmentState, CommitmentEvent], CommitmentState] = {
    (_S.INTENDED, _E.TAKE): _S.ASKED,
    (_S.INTENDED, _E.REFUSE): _S.REFUSED,
    (_S.INTENDED, _E.EXPIRE): _S.EXPIRED,  # we, or the archive, died before the answer
    (_S.INTENDED, _E.REPORT): _S.REPORTED,  # some archives report before they answer
    (_S.ASKED, _E.EXPIRE): _S.EXPIRED,
    (_S.ASKED, _E.REPORT): _S.REPORTED,
    (_S.REFUSED, _E.REPORT): _S.REPORTED,  # refused, and done all the same
    (_S.EXPIRED, _E.REPORT): _S.REPORTED,  # late, and true all the same
    (_S.REPORTED, _E.TAKE): _S.REPORTED,  # the answer came after the report
    (_S.REPORTED, _E.REFUSE): _S.REPORTED,
    (_S.REPORTED, _E.REPORT): _S.REPORTED,  # said twice: the first one counts
}


class ItemState(StrEnum):
    """What a transaction has brought for one delivery."""

    PENDING = "pending"
    COMMITTED = "committed"
    FAILED = "failed"
    CLOSED = "closed"
    """Acted upon, or sent anew since: what is still said of it counts no more."""


class ItemEvent(StrEnum):
    """What can happen to one delivery in one transaction."""

    COMMIT = "commit"
    FAIL = "fail"
    CLOSE = "close"


ITEM_TRANSITIONS: dict[tuple[ItemState, ItemEvent], ItemState] = {
    (ItemState.PENDING, ItemEvent.COMMIT): ItemState.COMMITTED,
    (ItemState.PENDING, ItemEvent.FAIL): ItemState.FAILED,
    (ItemState.PENDING, ItemEvent.CLOSE): ItemState.CLOSED,
    (ItemState.FAILED, ItemEvent.CLOSE): ItemState.CLOSED,
    (ItemState.COMMITTED, ItemEvent.CLOSE): ItemState.CLOSED,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an archive reports of one transaction (PS3.4 J.3.3).

    committed  SOP Instance UIDs it answers for.
    failed     SOP Instance UID -> Failure Reason (0008,1197), None if it gave none.
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int | None]


class Remedy(StrEnum):
    """What to do about an instance that the archive did not commit to."""

    ASK_LATER = "ask later"
    ASK_ANEW = "ask anew"
    SEND_AGAIN = "send again"
    PARK = "park"


_REASONS: dict[int, tuple[Remedy, str]] = {
    0x0110: (Remedy.ASK_LATER, "processing failure"),
    0x0112: (Remedy.SEND_AGAIN, "no such object instance"),
    0x0119: (Remedy.PARK, "class and instance conflict"),
    0x0122: (Remedy.PARK, "referenced SOP class not supported"),
    0x0131: (Remedy.ASK_ANEW, "duplicate transaction UID"),
    0x0213: (Remedy.ASK_LATER, "resource limitation"),
}


def remedy_for(reason: int | None) -> Remedy:
    """What to do about a Failure Reason (PS3.3 C.14.1.1); one that is not in the standard may pass."""
    return _REASONS[reason][0] if reason in _REASONS else Remedy.ASK_LATER


def reason_text(reason: int | None) -> str:
    """The Failure Reason as `0x0112 (no such object instance)`."""
    if reason is None:
        return "no reason given"
    return f"0x{reason:04X} ({_REASONS[reason][1] if reason in _REASONS else 'unknown reason'})"


@dataclass(frozen=True, slots=True)
class Said:
    """One delivery in one transaction, as far as it counts."""

    item: ItemState
    reason: int | None
    transaction: CommitmentState
    expires_at: datetime


class Step(StrEnum):
    """What to do next to prove a delivery."""

    CONFIRM = "confirm"
    REMEDY = "remedy"
    WAIT = "wait"
    ASK = "ask"


def step_heard(said: Sequence[Said]) -> Step | None:
    """What the reports so far ask for; None if they leave everything open.

    A commitment counts whenever it was asked for; of failures only the newest transaction's does.
    """
    if any(each.item is ItemState.COMMITTED for each in said):
        return Step.CONFIRM
    return Step.REMEDY if said and said[0].item is ItemState.FAILED else None


def next_step(said: Sequence[Said], now: datetime, timeout: timedelta) -> Step:
    """What to do about a delivery whose transactions, newest first, brought this.

    timeout  time that a report may take.

    """
    if (heard := step_heard(said)) is not None:
        return heard
    if not said:
        return Step.ASK
    newest = said[0]
    # An end further away than any that is set was written before the clock was set back.
    due_later = timedelta(0) < newest.expires_at - now <= timeout
    return Step.WAIT if newest.transaction is CommitmentState.ASKED and due_later else Step.ASK
