"""One tree of errors: the docstring is the sentence, the class knows whether trying again can help."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import ClassVar


def _code(kind: type[NodeError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


class Says(StrEnum):
    """What a failed job says about the destination it was for."""

    NOTHING = "nothing"
    """The failure is ours."""
    ANSWERS = "answers"
    """It dealt with this one object: it is there."""
    FAILS = "fails"
    """It failed with this object in hand: one of the two is to blame."""
    AWAY = "away"
    """It failed before any object was in play: the object is not to blame."""


class NodeError(Exception):
    """The node could not do what was asked."""

    permanent: ClassVar[bool] = True
    """True if the same attempt will fail again until a person changes something."""

    counted: ClassVar[bool] = True
    """False if a failure says nothing about the job and must not use up its attempts."""

    next_step: ClassVar[str] = "`emode jobs show JOB` has its history; then `emode jobs retry` or `cancel`"
    """What a person can do about a job that ended in it."""

    says: ClassVar[Says] = Says.NOTHING
    """What it means for the circuit breaker of a destination."""

    dimse_status: ClassVar[int] = 0xC000
    """Status answered to a C-STORE that ends in this error (PS3.4 Table B.2-1, PS3.7 Annex C)."""

    def __init__(self, detail: str = "", *, quoted: str = "") -> None:
        """Keep `detail`: the object, the fact and the next step. Never patient data.

        quoted  the peer's own words. They may quote patient data: for the row that operators see,
                never for a log.
        """
        self.detail = detail
        self.quoted = quoted
        super().__init__(detail)

    @property
    def code(self) -> str:
        """Stable name for screens and tables: `DestinationRefused` is `destination-refused`."""
        return _code(type(self))

    @property
    def sentence(self) -> str:
        """What this class of error means, without the facts of the case."""
        return (type(self).__doc__ or "").strip().splitlines()[0]

    @property
    def for_operators(self) -> str:
        """The error with the peer's own words: for the database, never for a log."""
        return f'{self}; it wrote: "{self.quoted}"' if self.quoted else str(self)

    def __str__(self) -> str:
        return f"{self.sentence.rstrip('.')}: {self.detail}" if self.detail else self.sentence


# -- what arrives -----------------------------------------------------------------------------


class ObjectUnreadable(NodeError):
    """The object cannot be understood as DICOM."""

    dimse_status = 0xC000


class UidMismatch(NodeError):
    """The data set does not match the SOP class or instance named in the command."""

    dimse_status = 0xA900


class ClassNotAccepted(NodeError):
    """The object's SOP class is not the one that was agreed on for its presentation context."""

    dimse_status = 0x0122


class InvalidUid(NodeError):
    """A UID breaks the rules of PS3.5 9.1."""

    dimse_status = 0xA900


class ObjectTooLarge(NodeError):
    """The object is larger than this node is configured to take."""

    # Not A7xx: a sender retries "out of resources", and this object will never fit.
    dimse_status = 0xC001


class PixelsUnreadable(NodeError):
    """The pixels cannot be decoded."""

    next_step = "`emode inspect FILE` says more; the image cannot be used"


class DecodingInterrupted(NodeError):
    """Decoding the pixels was cut short."""

    # Trouble of this machine as far as we know. Counted all the same: an image that takes all the memory
    # there is does so each time, and must end where a person sees it.
    permanent = False
    dimse_status = 0xA700
    next_step = "look at memory, processes and the data disk; then `emode jobs retry`"


class StorageFull(NodeError):
    """There is no room to keep another object safely."""

    permanent = False
    dimse_status = 0xA700


class FilePurged(NodeError):
    """The local copy was purged after every archive had it."""


class StoreBusy(NodeError):
    """The database did not take the record in time."""

    permanent = False
    counted = False
    dimse_status = 0xA700


# -- what is set up ---------------------------------------------------------------------------


class ConfigInvalid(NodeError):
    """The configuration cannot be used."""

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        """Name the file and every problem in it at once."""
        self.source = source
        self.problems = problems
        super().__init__(f"{source} has {len(problems)} problem(s)\n" + "\n".join(f"  {p}" for p in problems))


class SecretExposed(NodeError):
    """A file that holds a secret is open to others."""

    permanent = False
    counted = False


class SecretMissing(NodeError):
    """A secret cannot be read."""

    permanent = False
    counted = False


class CertificateUnusable(NodeError):
    """A certificate, its key or the trusted certificates cannot be used."""

    permanent = False
    counted = False


class RouteMissing(NodeError):
    """The route that took this image is no longer configured."""

    next_step = "put the route back into the configuration and retry, or cancel"


class BundleUnusable(NodeError):
    """A model bundle cannot be run."""

    permanent = False


class AlreadyRunning(NodeError):
    """Another process of this node already does this work."""


class ListenFailed(NodeError):
    """The node cannot listen on its address."""

    permanent = False


class SchemaMismatch(NodeError):
    """The database was written by a newer version of this program."""


class DatabaseDamaged(NodeError):
    """The database cannot be read."""

    # To a sender it is our trouble, and may be over once a person has looked.
    dimse_status = 0xA700


class FolderUnfit(NodeError):
    """The data folder cannot be used."""


class NodeInTrouble(NodeError):
    """The node itself is in trouble, not the image."""

    permanent = False
    counted = False


class Postponed(NodeError):
    """The node is stopping; the work is done after the next start."""

    permanent = False
    counted = False


# -- state ------------------------------------------------------------------------------------


class IllegalTransition(NodeError):
    """The state table has no such change."""


class StaleLease(NodeError):
    """The work was handed to somebody else in the meantime; what came too late is dropped."""


class AttemptsExhausted(NodeError):
    """The work was started as often as allowed and never reported an end."""

    next_step = "the log of that time names the image; retry once, and cancel if it happens again"


class NoSuchJob(NodeError):
    """There is no job with this number."""


# -- results ----------------------------------------------------------------------------------


class ResultInvalid(NodeError):
    """The result object failed its own check and was not sent."""

    next_step = "a mistake of this program: report it with the text of `emode jobs show JOB`"


class FileUnreadable(NodeError):
    """A file of this node cannot be read."""

    next_step = "look at the data disk; if the file is lost, send the image anew"


class PredictionFailed(NodeError):
    """The model gave no usable result for the image."""


# -- destinations -----------------------------------------------------------------------------


class DestinationUnreachable(NodeError):
    """The destination did not take the connection."""

    permanent = False
    says = Says.AWAY
    next_step = "check host, port and firewall; `emode echo` tests it"


class TlsFailed(DestinationUnreachable):
    """The destination was reached, but not over TLS; nothing was sent to it."""


class DestinationRejected(NodeError):
    """The destination rejected the association."""

    permanent = False
    says = Says.AWAY
    next_step = "check the AE titles, and whether the destination knows ours"


class AssociationUnanswered(NodeError):
    """The destination took the connection and gave no association."""

    permanent = False
    says = Says.AWAY
    next_step = "check the AE titles, and whether that port speaks DICOM; `emode echo` tests it"


class DestinationAborted(NodeError):
    """The association ended before the destination answered."""

    permanent = False
    says = Says.FAILS
    next_step = "look into the log of the destination at that time"


class DestinationSilent(NodeError):
    """The destination did not answer in time."""

    permanent = False
    says = Says.FAILS
    next_step = "look into the log of the destination; if it is only slow, raise answer_timeout_s"


class DestinationBusy(NodeError):
    """The destination cannot store the instance at the moment."""

    permanent = False
    says = Says.FAILS
    next_step = "have its administrator make room"


class NotTried(NodeError):
    """The association ended before it was this instance's turn."""

    permanent = False
    counted = False
    next_step = "none: it is sent when its turn comes"


class DestinationRefused(NodeError):
    """The destination answered, but would not store the instance."""

    says = Says.ANSWERS
    next_step = "its log says why; have that mended, then `emode jobs retry`"


class NoPresentationContext(NodeError):
    """The destination accepts neither this SOP class nor a transfer syntax we can send it in."""

    says = Says.ANSWERS
    next_step = "have its administrator allow this SOP class and Explicit VR Little Endian"


class NotInArchive(NodeError):
    """The destination said success, but does not list the instance."""

    permanent = False
    says = Says.ANSWERS
    next_step = "none yet: it is asked again"


class KeepsNothing(NodeError):
    """The destination says success each time, and never has the instance."""

    says = Says.ANSWERS
    next_step = "look into its log: it says success and drops; then `emode jobs retry`"


class QueryRefused(NodeError):
    """The destination did not answer the query."""

    permanent = False
    says = Says.ANSWERS
    next_step = "have its administrator allow C-FIND (Study Root), or set `confirm: none`"


class CommitmentDelayed(NodeError):
    """The destination cannot commit to the instance for now."""

    permanent = False
    says = Says.ANSWERS
    next_step = "none yet: it is asked again"


class CommitmentRefused(NodeError):
    """The destination does not let us ask for storage commitment."""

    says = Says.ANSWERS
    next_step = "have its administrator allow it, or set `confirm: find`; `emode probe` says what it offers"


class NotCommitted(NodeError):
    """The destination will not commit to the instance."""

    says = Says.ANSWERS
    next_step = "its log says why; have that mended, then `emode jobs retry` sends again"


class NeverReported(NodeError):
    """The destination was asked for storage commitment and never reported."""

    says = Says.ANSWERS
    next_step = "see that it can call us under the title we ask with, or set `confirm: find`"


# -- people -----------------------------------------------------------------------------------


class AccessDenied(NodeError):
    """This person may not do that."""

    next_step = "ask an admin for the role"


TROUBLE_CODES = tuple(
    _code(kind) for kind in NodeError.__subclasses__() if kind.says in (Says.FAILS, Says.AWAY)
)
"""Errors of a destination rather than of one object."""

AWAY_CODES = tuple(_code(kind) for kind in NodeError.__subclasses__() if kind.says is Says.AWAY)
"""Errors of which no object can be the cause."""


def by_code(code: str | None) -> type[NodeError] | None:
    """The class of an error that is only known by its code."""
    return next((kind for kind in NodeError.__subclasses__() if _code(kind) == code), None)
