"""The chain of audit records: each line holds the hash of the one before. Pure; no files, no clock."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

GENESIS = "0" * 64
"""What the first record has for the hash of the one before."""

_HASH_AT = b',"hash":"'
_HASH_END = b'"}\n'


@dataclass(frozen=True, slots=True)
class Link:
    """Where a chain stands: the last record's number and hash."""

    number: int
    hash: str


START = Link(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the log."""

    number: int
    at: str
    """When it was written, ISO 8601 in UTC; when it happened is in the message."""
    previous: str
    message: str
    hash: str

    @property
    def link(self) -> Link:
        """What the next record has to follow."""
        return Link(self.number, self.hash)


class NotARecord(ValueError):
    """The line is no record, or not the one that was written."""


class DoesNotFollow(ValueError):
    """The record is whole, but is not the next one of the chain."""


def seal(after: Link, at: str, message: str) -> tuple[bytes, Link]:
    """The next line of a chain, with its end of line, and where the chain stands then.

    The hash is SHA-256 over the line's own bytes up to the hash, so that no rule for writing JSON is
    part of the proof. They are ASCII, and hold the previous record's hash.
    """
    facts = {"n": after.number + 1, "at": at, "prev": after.hash, "message": message}
    body = json.dumps(facts, separators=(",", ":"), ensure_ascii=True).encode("ascii")[:-1]
    digest = hashlib.sha256(body).hexdigest()
    return body + _HASH_AT + digest.encode("ascii") + _HASH_END, Link(after.number + 1, digest)


def unseal(line: bytes) -> Record:
    """Read one line with its end. Raises NotARecord if a single byte differs from what was sealed."""
    body, found, rest = line.rpartition(_HASH_AT)
    if not found or not rest.endswith(_HASH_END) or len(rest) != 64 + len(_HASH_END):
        raise NotARecord("is not a record")
    written = rest[:64].decode("ascii", "replace")
    if hashlib.sha256(body).hexdigest() != written:
        raise NotARecord("was changed: its content does not match its hash")
    try:
        facts = json.loads(body + b"}")
        record = Record(facts["n"], facts["at"], facts["prev"], facts["message"], written)
    except (ValueError, LookupError, TypeError) as error:
        raise NotARecord("is not a record") from error
    # Anybody can seal anything; a reader that fails over it would prove nothing.
    texts = (record.at, record.previous, record.message)
    if type(record.number) is not int or not all(isinstance(text, str) for text in texts):
        raise NotARecord("is not a record")
    return record


def follow(after: Link, record: Record) -> Link:
    """Where the chain stands with this record. Raises DoesNotFollow with the reason, for people."""
    expected = after.number + 1
    if record.number > expected:
        gone = (
            f"record {expected}"
            if record.number == expected + 1
            else f"records {expected} to {record.number - 1}"
        )
        raise DoesNotFollow(f"{gone} removed: record {record.number} stands there")
    if record.number < expected:
        raise DoesNotFollow(f"record {record.number} stands where record {expected} belongs")
    if record.previous != after.hash:
        raise DoesNotFollow(f"record {record.number} was written after another record than the one before it")
    return record.link
