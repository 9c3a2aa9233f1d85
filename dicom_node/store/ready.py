"""Statements that each arrival runs: compiled once, then given to SQLite's driver as they are.

SQLAlchemy takes several times longer to run a small statement than SQLite does, while a sender waits. The
statement stays SQLAlchemy's, with its tables and types, and so does the transaction that it runs in. Only
what it returns comes as the driver gives it: ask for columns that need no conversion.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Insert, Select, Update
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect

_DIALECT = sqlite_dialect()


class Ready:
    """A statement whose values are named: by `bindparam`, or, of an insert, by `columns`."""

    def __init__(self, statement: Select[Any] | Insert | Update, *columns: str) -> None:
        """Compile it."""
        compiled: Any = statement.compile(dialect=_DIALECT, column_keys=list(columns) or None)
        self._sql = str(compiled)
        self._values = [
            (
                name,
                compiled.binds[name].required,
                compiled.params[name],
                compiled.binds[name].type.dialect_impl(_DIALECT).bind_processor(_DIALECT),
            )
            for name in compiled.positiontup
        ]

    def run(self, conn: Connection, given: Mapping[str, Any]) -> sqlite3.Cursor:
        """Run it in the transaction of `conn`; raises sqlite3.Error, KeyError for a value that is missing."""
        driver: Any = conn.connection.driver_connection
        cursor: sqlite3.Cursor = driver.execute(
            self._sql,
            [
                convert(given[name] if is_given else fixed) if convert else given[name] if is_given else fixed
                for name, is_given, fixed, convert in self._values
            ],
        )
        return cursor
