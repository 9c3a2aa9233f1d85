"""The tables. A row is the state: nothing that matters lives only in memory or in a folder's name."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: aware in Python, UTC in the database, refused if naive."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC and drop the zone, which SQLite cannot keep."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back."""
        return value and value.replace(tzinfo=UTC)


studies = Table(
    "studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, unique=True),
    # The one attribute kept to find a study by: what a radiology department calls it on the phone.
    # Names and patient IDs stay in the files; they may change while we hold the study (IHE PIR).
    Column("accession_number", String(16), nullable=False, server_default=""),
    Column("state", String(16), nullable=False),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("first_received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("settled_at", UtcDateTime),
    Column("purged_at", UtcDateTime),
    Index("ix_studies_accession", "accession_number"),
    Index("ix_studies_state", "state"),
    Index("ix_studies_last", "last_received_at"),
)

images = Table(
    "images",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    # Empty if no route took the image. The same image on two routes is two rows and one file.
    Column("route", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("instance_number", Integer),
    Column("digest", String(64), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("called_ae_title", String(16), nullable=False),
    Column("address", String(45), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("arrivals", Integer, nullable=False, server_default="1"),
    Column("revision", Integer, nullable=False, server_default="1"),
    Column("decision", String(16), nullable=False),
    Column("skip_code", String(32)),
    Column("skip_sentence", Text),
    Column("decided_at", UtcDateTime),
    # Set: the file is gone, or about to go. Several rows may share it; it goes with the last.
    Column("purged_at", UtcDateTime),
    UniqueConstraint("route", "sop_instance_uid", name="uq_images_route_sop"),
    Index("ix_images_study", "study_id"),
    Index("ix_images_digest", "digest"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    # Jobs of one lane are served by one loop: the destination's name for deliver and confirm.
    Column("lane", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    Column("image_id", ForeignKey("images.id"), nullable=False),
    Column("delivery_id", ForeignKey("deliveries.id")),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    # NULL is "at once": a time would freeze the queue when the clock is set back.
    Column("not_before", UtcDateTime),
    Column("lease_token", String(36)),
    Column("lease_until", UtcDateTime),
    Column("owner", String(128)),
    Column("error_code", String(64)),
    Column("error_text", Text),
    Column("created_at", UtcDateTime, nullable=False),
    # By the clock of that moment: a time to come means that the clock was set back since.
    Column("changed_at", UtcDateTime),
    Column("claimed_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Index("ix_jobs_claim", "kind", "lane", "state", "priority", "id"),
    Index("ix_jobs_image", "image_id"),
    Index("ix_jobs_study", "study_id"),
    Index("ix_jobs_delivery", "delivery_id"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("event", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("detail", Text),
    Index("ix_job_events_job", "job_id"),
)

results = Table(
    "results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sop_instance_uid", String(64), nullable=False, unique=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("bundle", String(128), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # Seconds of each step, as JSON: {"read": 0.01, "infer": 0.05, ...}. For people, never for decisions.
    Column("steps", Text, nullable=False),
    # Content Date and Time of the file: what makes the same bytes when it has to be made anew.
    Column("dated_at", UtcDateTime),
    Column("purged_at", UtcDateTime),
    Index("ix_results_digest", "digest"),
)

image_results = Table(
    "image_results",
    metadata,
    Column("image_id", ForeignKey("images.id"), primary_key=True),
    Column("result_id", ForeignKey("results.id"), primary_key=True),
    Column("pane", Integer, nullable=False),
    Index("ix_image_results_result", "result_id"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("result_id", ForeignKey("results.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("status", Integer),
    Column("words", Text),
    Column("accepted_at", UtcDateTime),
    Column("confirmed_at", UtcDateTime),
    Column("confirmed_by", String(16)),
    UniqueConstraint("result_id", "destination", name="uq_deliveries_result_destination"),
    Index("ix_deliveries_state", "state"),
)

breakers = Table(
    "breakers",
    metadata,
    # No row is a destination that has never failed.
    Column("destination", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("pauses", Integer, nullable=False),
    Column("since", UtcDateTime),
    Column("next_try_at", UtcDateTime),
    Column("kind", String(16)),
    Column("error_code", String(64)),
    Column("error_text", Text),
)

commitments = Table(
    "commitments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("destination", String(64), nullable=False),
    Column("transaction_uid", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("words", Text),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Index("ix_commitments_open", "destination", "state"),
)

commitment_items = Table(
    "commitment_items",
    metadata,
    Column("commitment_id", ForeignKey("commitments.id", ondelete="CASCADE"), primary_key=True),
    Column("delivery_id", ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("failure_reason", Integer),
    Index("ix_commitment_items_delivery", "delivery_id"),
)
