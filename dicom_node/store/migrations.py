"""Bring a database to the schema of this program: ordered steps, each in one transaction with its record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, func, insert, select

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


def _first_tables(conn: Connection) -> None:
    schema.metadata.create_all(conn)


MIGRATIONS: tuple[tuple[int, str, Callable[[Connection], None]], ...] = ((1, "first tables", _first_tables),)
"""(number, name, step). Never edit a step that has shipped; add one."""


def migrate(conn: Connection, now: datetime) -> int:
    """Apply what is missing, inside the caller's transaction; return how many steps that were.

    Raises SchemaMismatch if a newer program has written this database.
    """
    _metadata.create_all(conn)
    newest = conn.scalar(select(func.max(applied_migrations.c.number))) or 0
    known = max(number for number, _, _ in MIGRATIONS)
    if newest > known:
        raise SchemaMismatch(
            f"the database is at step {newest}, this program knows {known}; install the newer version again"
        )
    pending = [step for step in MIGRATIONS if step[0] > newest]
    for number, name, apply in pending:
        apply(conn)
        conn.execute(insert(applied_migrations).values(number=number, name=name, applied_at=now))
    return len(pending)
