"""Arrivals, studies, migrations and files on a real SQLite file and a real folder."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select

import rows
from dicom_node.core.errors import AlreadyRunning, SchemaMismatch, StoreBusy
from dicom_node.core.study import SettlePolicy, StudyState
from dicom_node.disk import sync
from dicom_node.store.database import open_database, open_existing_database
from dicom_node.store.files import Layout, digest_from, place_file
from dicom_node.store.images import Novelty, settle_due, study_is_settled
from dicom_node.store.migrations import MIGRATIONS, applied_migrations
from dicom_node.store.process import Bell, is_held, sole_holder
from dicom_node.store.schema import images, studies

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
POLICY = SettlePolicy(quiet_s=30, max_wait_s=1800)


@pytest.fixture
def database(tmp_path):
    database = open_database(tmp_path / "state.sqlite", NOW)
    yield database
    database.close()


def arrive(database, sop="1.2.3", digest="a", route="breast", at=NOW):
    with database.write() as conn:
        return rows.arrive(conn, at, sop=sop, route=route, digest=digest * 64)


def test_the_same_bytes_again_are_counted_and_nothing_else(database):
    first = arrive(database)
    again = arrive(database, at=NOW + timedelta(hours=1))
    assert (first.novelty, again.novelty) == (Novelty.NEW, Novelty.DUPLICATE)
    assert again.image_id == first.image_id
    with database.read() as conn:
        row = conn.execute(select(images)).one()
    assert (row.arrivals, row.revision, row.received_at) == (2, 1, NOW)


def test_other_bytes_under_the_same_uid_are_a_new_revision(database):
    first = arrive(database)
    replaced = arrive(database, digest="b")
    assert (replaced.novelty, replaced.image_id) == (Novelty.REPLACED, first.image_id)
    with database.read() as conn:
        assert conn.execute(select(images.c.digest, images.c.revision)).one() == ("b" * 64, 2)


def test_the_same_image_on_two_routes_is_two_images(database):
    assert arrive(database).image_id != arrive(database, route="research").image_id


def test_a_late_image_reopens_its_study(database):
    study = arrive(database).study_id
    quiet = NOW + timedelta(seconds=30)
    with database.write() as conn:
        assert settle_due(conn, POLICY, quiet - timedelta(seconds=1)) == []
        assert settle_due(conn, POLICY, quiet) == [study]
        assert study_is_settled(conn, study)
    late = NOW + timedelta(hours=1)
    assert arrive(database, sop="1.2.4", at=late).study_id == study
    with database.write() as conn:
        row = conn.execute(select(studies)).one()
        assert (row.state, row.revision) == (StudyState.RECEIVING, 2)
        # The longest wait counts anew, or the study would settle at once.
        assert settle_due(conn, POLICY, late + timedelta(seconds=29)) == []


def test_a_duplicate_does_not_reopen_a_settled_study(database):
    study = arrive(database).study_id
    with database.write() as conn:
        settle_due(conn, POLICY, NOW + timedelta(seconds=30))
    arrive(database, at=NOW + timedelta(hours=1))
    with database.read() as conn:
        assert study_is_settled(conn, study)


def test_times_without_a_zone_are_refused(database):
    with pytest.raises(Exception, match="a time without a zone"):
        arrive(database, at=NOW.replace(tzinfo=None))


def test_a_failed_block_leaves_no_trace(database):
    def write_and_fail():
        with database.write() as conn:
            study = {"study_instance_uid": "9.9", "state": "receiving"}
            conn.execute(insert(studies).values(**study, first_received_at=NOW, last_received_at=NOW))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with database.read() as conn:
        assert conn.execute(select(studies)).all() == []


def test_opening_again_migrates_nothing(tmp_path, database):
    again = open_database(tmp_path / "state.sqlite", NOW)
    with again.read() as conn:
        numbers = conn.scalars(select(applied_migrations.c.number)).all()
    again.close()
    assert numbers == [number for number, _, _ in MIGRATIONS]


def shape(path):
    """Every table with its columns, and every index: what two databases of one schema share."""
    found = {}
    with closing(sqlite3.connect(path)) as conn:
        tables = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = conn.execute(f"PRAGMA table_info({table})").fetchall()
            indexes = [row[1] for row in conn.execute(f"PRAGMA index_list({table})")]
            parts = {name: [row[2] for row in conn.execute(f"PRAGMA index_info({name})")] for name in indexes}
            found[table] = (
                {name: (kind, required, key) for _, name, kind, required, _, key in columns},
                sorted(parts.values()),
            )
    return found


def test_a_database_of_the_first_version_is_brought_to_this_one(tmp_path, database):
    old = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(old)) as conn:
        conn.executescript((Path(__file__).parent / "schema_1.sql").read_text())
    open_database(old, NOW).close()
    assert shape(old) == shape(tmp_path / "state.sqlite")


def test_a_database_of_a_newer_program_is_refused(tmp_path, database):
    with database.write() as conn:
        conn.execute(insert(applied_migrations).values(number=999, name="future", applied_at=NOW))
    with pytest.raises(SchemaMismatch, match="at step 999"):
        open_database(tmp_path / "state.sqlite", NOW)


def test_looking_at_a_database_never_changes_its_schema(tmp_path, database):
    with database.write() as conn:
        conn.execute(delete(applied_migrations))
    with pytest.raises(SchemaMismatch, match="at step 0"):
        open_existing_database(tmp_path / "state.sqlite")


def test_a_locked_database_is_a_temporary_trouble(tmp_path, database):
    impatient = open_database(tmp_path / "other.sqlite", NOW, busy_timeout_s=0.1)
    holder = sqlite3.connect(tmp_path / "other.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="locked"), impatient.write():
        pass
    holder.close()
    impatient.close()


def test_a_committed_file_has_its_final_name_and_no_other(tmp_path):
    layout = Layout(tmp_path / "data")
    layout.create()
    written = layout.incoming / "x"
    written.write_bytes(b"preamble" + b"content")
    digest, size = digest_from(written, len(b"preamble"), "syntax")
    sync(written)
    place_file(written, layout.source(digest))
    assert size == len(b"preamblecontent")
    assert not written.exists()
    assert [(kind, found) for kind, found, _ in layout.stored()] == [("source", digest)]
    assert oct(layout.source(digest).parent.stat().st_mode)[-3:] == "700"


def test_places_of_results_are_there_before_the_first(tmp_path, monkeypatch):
    """So that giving a file its name syncs its folder and no other."""
    layout = Layout(tmp_path / "data")
    layout.create()
    for _ in range(2):  # each start of the worker
        layout.create_result_places()
    written = layout.incoming / "x"
    written.write_bytes(b"content")
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    place_file(written, layout.result("f" * 64))
    assert len(synced) == 1
    assert {oct(place.stat().st_mode)[-3:] for place in (layout.root / "result").iterdir()} == {"700"}
    assert list(layout.stored()) == [("result", "f" * 64, layout.result("f" * 64))]


def test_only_one_process_holds_a_role(tmp_path):
    lock = tmp_path / "locks" / "worker.lock"
    lock.parent.mkdir()
    with sole_holder(lock, "worker"):
        assert is_held(lock)
        with pytest.raises(AlreadyRunning, match="worker on"), sole_holder(lock, "worker"):
            pass
    assert not is_held(lock)


def test_a_bell_wakes_who_waits_and_bothers_nobody_else(tmp_path):
    ringer, sleeper = Bell(tmp_path / "bell"), Bell(tmp_path / "bell")
    ringer.ring()  # nobody waits: nothing happens
    sleeper.wait(0.0)
    ringer.ring()
    started = datetime.now(UTC)
    sleeper.wait(30.0)
    assert datetime.now(UTC) - started < timedelta(seconds=10)
    sleeper.close()
