"""The engine: one SQLite file, durable before we answer, short write transactions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from dicom_node.core.errors import DatabaseDamaged, StoreBusy
from dicom_node.store.migrations import migrate, require_current, require_known

_READ_ONLY = "emode_read_only"

_RESCUE = (
    "stop the node, keep a copy of the data folder, and put state.sqlite back from a backup; or move the "
    "folder aside, start anew, and send the images in its source/ again (`emode send`)"
)


class Database:
    """Where the state lives. Threads may share one; processes each open their own."""

    def __init__(self, engine: Engine) -> None:
        """Wrap an engine made by `open_database`."""
        self._writer = engine
        self._reader = engine.execution_options(**{_READ_ONLY: True})
        self._kept: Connection | None = None
        self._watcher: sqlite3.Connection | None = None
        self._watching = threading.Lock()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction: commits at the end of the block, rolls back on any error.

        Raises StoreBusy if another process holds the file for longer than the busy timeout,
        or the disk is full.
        """
        with _trouble_is_temporary(), self._writer.begin() as conn:
            yield conn

    @contextmanager
    def write_again(self) -> Iterator[Connection]:
        """As `write`, for a thread that writes again and again: over a connection that stays open.

        One thread at a time. To hand out a connection and to take it back costs SQLAlchemy 0.04 ms.
        """
        with _trouble_is_temporary():
            if self._kept is None:
                self._kept = self._writer.connect()
            try:
                with self._kept.begin():
                    yield self._kept
            except BaseException:  # whatever it was, the next transaction shall know nothing of it
                self._let_go()
                raise

    def _let_go(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view; never waits for a writer. Raises StoreBusy as `write` does."""
        with _trouble_is_temporary(), self._reader.begin() as conn:
            yield conn

    def version(self) -> int | None:
        """A number that changes with each commit, whoever made it; None if it cannot be told now.

        For those who look again and again: it costs a hundredth of a look at the tables. Two numbers can be
        compared if the same process got them.
        """
        with self._watching, suppress(sqlite3.Error):
            if self._watcher is None:  # one of its own, for what a connection commits itself does not count
                self._watcher = sqlite3.connect(str(self._writer.url.database), check_same_thread=False)
            # All rows are fetched, or the connection would go on reading, and the log could not be emptied.
            return int(self._watcher.execute("PRAGMA data_version").fetchall()[0][0])
        return None

    def wal_bytes(self) -> int:
        """Size of the write-ahead log's file."""
        with suppress(FileNotFoundError):
            return Path(f"{self._writer.url.database}-wal").stat().st_size
        return 0

    def shrink_wal(self, patience_s: float = 5.0) -> bool:
        """Copy the write-ahead log into the database and empty it; False if a reader would not end in time.

        A log is emptied only at a moment without a reader, which never comes by itself while one follows
        the other. This makes one: writers wait for it, and new readers need the log no more.
        """
        conn = sqlite3.connect(str(self._writer.url.database), timeout=patience_s)
        try:
            busy, _, _ = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            return False
        finally:
            conn.close()
        return not busy

    def close(self) -> None:
        """Close every connection."""
        self._let_go()
        self._writer.dispose()
        with self._watching:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None


def open_database(
    path: Path, now: datetime, *, connections: int = 10, busy_timeout_s: float = 30.0
) -> Database:
    """Open or create the SQLite file and bring its schema up to date.

    connections  threads that use it at once; more wait for each other.

    WAL so that readers and the writer do not wait for each other; synchronous=FULL so that a
    committed row survives a power cut, which is what a 0000 status promises.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(_engine(path, connections, busy_timeout_s))
    with database.write() as conn:
        migrate(conn, now)
    return database


def require_usable(path: Path) -> None:
    """Raise DatabaseDamaged or SchemaMismatch if a node could not work with this file; none at all is fine.

    Looks at what a start reads anyway; pages further in may be damaged all the same.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    address = f"{path.resolve().as_uri()}?mode=ro"  # another program's file must stay as it is
    engine = create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool
    )
    with _trouble_is_temporary(), engine.connect() as conn:
        require_known(conn)


def open_existing_database(path: Path, *, busy_timeout_s: float = 5.0) -> Database:
    """Open the file of a node that may be running, and leave its schema alone.

    Raises SchemaMismatch unless the schema is exactly this program's.
    """
    database = Database(_engine(path, 2, busy_timeout_s))
    with database.read() as conn:
        require_current(conn)
    return database


def _engine(path: Path, connections: int, busy_timeout_s: float) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": busy_timeout_s},
        pool_size=connections,
        pool_timeout=busy_timeout_s,
    )
    event.listen(engine, "connect", _prepare_connection)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def _trouble_is_temporary() -> Iterator[None]:
    """A database that is locked, full or out of connections says "try again", whatever it raised.

    What contradicts the schema (IntegrityError) is a mistake of ours, and passes as it is.
    """
    try:
        yield
    except (DatabaseError, sqlite3.DatabaseError) as error:
        # SQLAlchemy's, or the driver's own from a statement that was given to it as it is (`ready.py`).
        cause = error.orig if isinstance(error, DatabaseError) else error
        if isinstance(cause, sqlite3.OperationalError):
            raise StoreBusy(f"{type(cause).__name__}: {cause}") from error
        if type(cause) is sqlite3.DatabaseError:
            raise DatabaseDamaged(f"{cause}; {_RESCUE}") from error
        raise
    except PoolTimeout as error:
        raise StoreBusy("every connection is in use") from error


def _prepare_connection(connection: sqlite3.Connection, record: Any) -> None:
    # The driver's own implicit BEGIN is deferred: two writers would then deadlock on the upgrade
    # of their read locks. Transactions are begun by _begin instead.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(conn: Connection) -> None:
    read_only = conn.get_execution_options().get(_READ_ONLY, False)
    conn.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
