"""Statements given to the driver as they are: the same values, and the same troubles, as SQLAlchemy's."""

import sqlite3
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import bindparam, insert, select, update

from dicom_node.core.errors import DatabaseDamaged, StoreBusy
from dicom_node.store.database import open_database
from dicom_node.store.ready import Ready
from dicom_node.store.schema import studies

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ADD = Ready(
    insert(studies), "study_instance_uid", "state", "first_received_at", "last_received_at", "settled_at"
)


def row(uid, at=NOW, settled_at=None):
    return {
        "study_instance_uid": uid,
        "state": "receiving",
        "first_received_at": at,
        "last_received_at": at,
        "settled_at": settled_at,
    }


@pytest.fixture
def database(tmp_path):
    opened = open_database(tmp_path / "state.sqlite", NOW)
    yield opened
    opened.close()


def test_values_are_written_as_their_columns_want_them(database):
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    with database.write() as conn:
        assert ADD.run(conn, row("1.2", elsewhere)).lastrowid == 1
        conn.execute(insert(studies).values(**row("1.3")))
        written = conn.exec_driver_sql("select first_received_at, settled_at, revision from studies").all()
    assert written[0] == written[1]
    with database.read() as conn:
        assert set(conn.scalars(select(studies.c.last_received_at))) == {NOW}


def test_what_a_statement_itself_says_is_not_given(database):
    change = Ready(
        update(studies)
        .where(studies.c.study_instance_uid == bindparam("uid"))
        .values(state="settled", revision=studies.c.revision + 1, settled_at=bindparam("at"))
    )
    known = Ready(select(studies.c.state, studies.c.revision).where(studies.c.revision > 1))
    with database.write() as conn:
        ADD.run(conn, row("1.2"))
        assert change.run(conn, {"uid": "1.2", "at": NOW}).rowcount == 1
        assert known.run(conn, {}).fetchall() == [("settled", 2)]


def test_a_time_without_a_zone_and_a_missing_value_are_refused(database):
    with database.write() as conn:
        with pytest.raises(ValueError, match="without a zone"):
            ADD.run(conn, row("1.2", NOW.replace(tzinfo=None)))
        with pytest.raises(KeyError):
            ADD.run(conn, {"study_instance_uid": "1.2"})


def test_it_belongs_to_the_transaction(database):
    def write_and_fail():
        with database.write() as conn:
            ADD.run(conn, row("1.2"))
            raise LookupError

    with pytest.raises(LookupError):
        write_and_fail()
    with database.read() as conn:
        assert conn.scalars(select(studies.c.id)).all() == []


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (sqlite3.OperationalError("database or disk is full"), StoreBusy),
        (sqlite3.DatabaseError("database disk image is malformed"), DatabaseDamaged),
        (sqlite3.IntegrityError("UNIQUE constraint failed"), sqlite3.IntegrityError),
    ],
)
def test_trouble_of_the_driver_has_the_words_of_the_store(database, trouble, said):
    with pytest.raises(said, match=str(trouble)), database.write():
        raise trouble
