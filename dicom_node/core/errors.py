"""One tree of errors: the docstring is the sentence, the class knows whether trying again can help."""

from __future__ import annotations

import re
from typing import ClassVar


class NodeError(Exception):
    """The node could not do what was asked."""

    permanent: ClassVar[bool] = True
    """True if the same attempt will fail again until a person changes something."""

    counted: ClassVar[bool] = True
    """False if a failure says nothing about the job and must not use up its attempts."""

    dimse_status: ClassVar[int] = 0xC000
    """Status answered to a C-STORE that ends in this error (PS3.4 Table B.2-1, PS3.7 Annex C)."""

    def __init__(self, detail: str = "") -> None:
        """Keep `detail`: the object, the fact and the next step. Never patient data."""
        self.detail = detail
        super().__init__(detail)

    @property
    def code(self) -> str:
        """Stable name for screens and tables: `DestinationRefused` is `destination-refused`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    @property
    def sentence(self) -> str:
        """What this class of error means, without the facts of the case."""
        return (type(self).__doc__ or "").strip().splitlines()[0]

    def __str__(self) -> str:
        return f"{self.sentence.rstrip('.')}: {self.detail}" if self.detail else self.sentence


# -- what arrives -----------------------------------------------------------------------------


class ObjectUnreadable(NodeError):
    """The object cannot be understood as DICOM."""

    dimse_status = 0xC000


class UidMismatch(NodeError):
    """The data set does not match the SOP class or instance named in the command."""

    dimse_status = 0xA900


class InvalidUid(NodeError):
    """A UID breaks the rules of PS3.5 9.1."""

    dimse_status = 0xA900


class ObjectTooLarge(NodeError):
    """The object is larger than this node is configured to take."""

    # Not A7xx: a sender retries "out of resources", and this object will never fit.
    dimse_status = 0xC001


class PixelsUnreadable(NodeError):
    """The pixels cannot be decoded."""


class StorageFull(NodeError):
    """There is no room to keep another object safely."""

    permanent = False
    dimse_status = 0xA700


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


class RouteMissing(NodeError):
    """The route that took this image is no longer configured."""


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


class NoSuchJob(NodeError):
    """There is no job with this number."""


# -- results ----------------------------------------------------------------------------------


class ResultInvalid(NodeError):
    """The result object failed its own check and was not sent."""


class FileUnreadable(NodeError):
    """A file of this node cannot be read."""


class PredictionFailed(NodeError):
    """The model gave no usable result for the image."""


# -- destinations -----------------------------------------------------------------------------


class DestinationUnreachable(NodeError):
    """The destination did not take the association."""

    permanent = False


class DestinationRejected(NodeError):
    """The destination rejected the association."""

    permanent = False


class DestinationAborted(NodeError):
    """The association ended before the destination answered."""

    permanent = False


class DestinationBusy(NodeError):
    """The destination is out of resources."""

    permanent = False


class DestinationRefused(NodeError):
    """The destination answered, but would not store the instance."""


class NoPresentationContext(NodeError):
    """The destination accepts neither this SOP class nor a transfer syntax we can send it in."""


class NotInArchive(NodeError):
    """The destination said success, but does not list the instance."""

    permanent = False


class KeepsNothing(NodeError):
    """The destination says success each time, and never has the instance."""


class QueryRefused(NodeError):
    """The destination did not answer the query."""

    permanent = False
