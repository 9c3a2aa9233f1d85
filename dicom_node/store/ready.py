"""Statements that each arrival runs: compiled once, then given to SQLite's driver as they are.

SQLAlchemy takes several times longer to run a small statement than SQLite does, while a sender waits. The
statement stays SQLAlchemy's, with its tables and types, and so does the transaction that it runs in.
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
        columns_read = statement.selected_columns if isinstance(statement, Select) else ()
        self._results = [
            column.type.dialect_impl(_DIALECT).result_processor(_DIALECT, None) for column in columns_read
        ]

    def run(self, conn: Connection, given: Mapping[str, Any]) -> sqlite3.Cursor:
        """Run it in the transaction of `conn`; raises sqlite3.Error, KeyError for a value that is missing.

        What it finds comes as the driver gives it: for what needs no conversion. See `row`.
        """
        driver: Any = conn.connection.driver_connection
        cursor: sqlite3.Cursor = driver.execute(
            self._sql,
            [
                convert(given[name] if is_given else fixed) if convert else given[name] if is_given else fixed
                for name, is_given, fixed, convert in self._values
            ],
        )
        return cursor

    def row(self, conn: Connection, given: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Run a select, and return its first row in the types of its columns; None if there is none."""
        found = self.run(conn, given).fetchone()
        if found is None:
            return None
        columns = zip(found, self._results, strict=True)
        return tuple([convert(value) if convert else value for value, convert in columns])
