"""Bring a database to the schema of this program: ordered steps, each in one transaction with its record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, func, insert, inspect, select

from dicom_node.core import faults
from dicom_node.core.errors import SchemaMismatch
from dicom_node.store import schema
from dicom_node.store.schema import UtcDateTime

_metadata = MetaData()

applied_migrations = Table(
    "applied_migrations",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("applied_at", UtcDateTime, nullable=False),
)


MIGRATIONS: tuple[tuple[int, str, Callable[[Connection], None]], ...] = (
    (1, "first tables", lambda conn: None),
    (2, "storage commitment", lambda conn: _add_commitments(conn)),
    (3, "circuit breakers", lambda conn: _add_breakers(conn)),
    (4, "purging; when a job changed", lambda conn: _add_purging_and_clocks(conn)),
)
"""(number, name, step from the schema before it). Never edit a step that has shipped; add one.

A new database is made from `schema.py` as it is now and counts as having every step behind it.
"""

NEWEST = max(number for number, _, _ in MIGRATIONS)


def _add_commitments(conn: Connection) -> None:
    """Transactions of storage commitment, and what each says of each delivery."""
    for statement in (
        "CREATE TABLE commitments (id INTEGER NOT NULL, destination VARCHAR(64) NOT NULL,"
        " transaction_uid VARCHAR(64) NOT NULL, state VARCHAR(16) NOT NULL, words TEXT,"
        " requested_at DATETIME NOT NULL, expires_at DATETIME NOT NULL, ended_at DATETIME,"
        " PRIMARY KEY (id), UNIQUE (transaction_uid))",
        "CREATE INDEX ix_commitments_open ON commitments (destination, state)",
        "CREATE TABLE commitment_items (commitment_id INTEGER NOT NULL, delivery_id INTEGER NOT NULL,"
        " state VARCHAR(16) NOT NULL, failure_reason INTEGER, PRIMARY KEY (commitment_id, delivery_id),"
        " FOREIGN KEY(commitment_id) REFERENCES commitments (id) ON DELETE CASCADE,"
        " FOREIGN KEY(delivery_id) REFERENCES deliveries (id) ON DELETE CASCADE)",
        "CREATE INDEX ix_commitment_items_delivery ON commitment_items (delivery_id)",
    ):
        conn.exec_driver_sql(statement)


def _add_breakers(conn: Connection) -> None:
    conn.exec_driver_sql(
        "CREATE TABLE breakers (destination VARCHAR(64) NOT NULL PRIMARY KEY, state VARCHAR(16) NOT NULL, "
        "failures INTEGER NOT NULL, pauses INTEGER NOT NULL, since DATETIME, next_try_at DATETIME, "
        "kind VARCHAR(16), error_code VARCHAR(64), error_text TEXT)"
    )


def _add_purging_and_clocks(conn: Connection) -> None:
    for table, column in (
        ("studies", "purged_at"),
        ("images", "purged_at"),
        ("results", "purged_at"),
        ("results", "dated_at"),
        ("jobs", "changed_at"),
    ):
        conn.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column} DATETIME")


def migrate(conn: Connection, now: datetime) -> int:
    """Apply what is missing, inside the caller's transaction; return how many steps that were.

    Raises SchemaMismatch as `require_known` does.
    """
    require_known(conn)
    _metadata.create_all(conn)
    reached = conn.scalar(select(func.max(applied_migrations.c.number)))
    if reached is None:
        schema.metadata.create_all(conn)
    pending = [step for step in MIGRATIONS if step[0] > (reached or 0)]
    for number, name, apply in pending:
        if reached is not None:
            apply(conn)
        conn.execute(insert(applied_migrations).values(number=number, name=name, applied_at=now))
    faults.step("migrate.applied")
    return len(pending)


def created_at(conn: Connection) -> datetime:
    """When this database was made."""
    made: datetime = conn.scalars(select(func.min(applied_migrations.c.applied_at))).one()
    return made


def require_known(conn: Connection) -> None:
    """Raise SchemaMismatch if a newer program wrote this database, or another one altogether."""
    tables = inspect(conn).get_table_names()
    if applied_migrations.name not in tables:
        if tables:
            raise SchemaMismatch(
                "state.sqlite holds tables of another program; point data_dir at a folder of its own"
            )
        return
    reached = conn.scalar(select(func.max(applied_migrations.c.number)))
    if reached is not None and reached > NEWEST:
        raise SchemaMismatch(
            f"the database is at step {reached}, this program knows {NEWEST}; install the newer version again"
        )


def require_current(conn: Connection) -> None:
    """Raise SchemaMismatch unless the database has exactly this program's schema."""
    reached = 0
    if inspect(conn).has_table(applied_migrations.name):
        reached = conn.scalar(select(func.max(applied_migrations.c.number))) or 0
    if reached != NEWEST:
        raise SchemaMismatch(
            f"the database is at step {reached}, this program needs {NEWEST}; use the version the node runs"
        )
