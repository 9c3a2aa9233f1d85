"""What one image costs in statements and syncs: counts that do not depend on the machine.

A change that raises one of these makes every image slower on every machine; then it is argued for here.
"""

import os
from collections import Counter
from datetime import UTC, datetime

import pytest
from sqlalchemy import event

from bench.growth import _fill
from dicom_node.core.retention import RetentionPolicy
from dicom_node.core.rules import Route
from dicom_node.store import overview
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.process import Bells
from dicom_node.store.together import Together
from dicom_node.work.receive import Reception
from harness import received_from
from peers.still import breast_still, write


@pytest.fixture
def costs(tmp_path, monkeypatch):
    """A reception, and a counter of what it asks of disk and database."""
    layout = Layout(tmp_path / "data")
    layout.create()
    for number in range(256):  # a new one costs two syncs more, once
        (layout.root / "source" / f"{number:02x}").mkdir(parents=True)
    database = open_database(layout.database, datetime.now(UTC))
    counted = Counter()
    event.listen(database._writer, "before_cursor_execute", lambda *args: counted.update(statements=1))
    event.listen(database._writer, "commit", lambda conn: counted.update(commits=1))
    sync = os.fsync

    def counting(descriptor):
        counted.update(syncs=1)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", counting)
    route = Route("breast", "EMODE", "default", ("pacs",))
    reception = Reception(
        Together(database), layout, Bells(layout.bells), (route,), 5, lambda: datetime.now(UTC)
    )

    def receive(number):
        ds = breast_still(rows=64, columns=64, instance_number=number)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        received = received_from(write(ds, tmp_path / "image.dcm"), layout.incoming)
        counted.clear()
        reception.take(received)
        return dict(counted)

    yield receive
    database.close()


def test_an_image_of_a_known_study(costs):
    costs(1)
    # Begin; ours? known? file back? study? study grew; image; job. The file, its folder; the commit syncs
    # the log by itself, which SQLite does and nobody counts here.
    for number in range(2, 6):
        assert costs(number) == {"statements": 8, "commits": 1, "syncs": 2}


def test_the_same_image_again(costs):
    costs(1)
    assert costs(1) == {"statements": 6, "commits": 1, "syncs": 2}


def asked(database, look):
    """(statements, instructions of SQLite's machine in hundreds) that a look at the tables takes."""
    with database.read() as conn:
        look(conn)  # what is built once
        counted = Counter()
        raw = conn.connection.dbapi_connection
        statement = lambda *args: counted.update(statements=1)  # noqa: E731
        event.listen(database._writer, "before_cursor_execute", statement)
        raw.set_progress_handler(lambda: counted.update(instructions=1) or 0, 100)
        look(conn)
        raw.set_progress_handler(None, 100)
        event.remove(database._writer, "before_cursor_execute", statement)
    return counted["statements"], counted["instructions"]


@pytest.mark.parametrize(
    ("look", "statements"),
    [
        (lambda conn: overview.study_lines(conn, study=None, limit=10, policy=RetentionPolicy()), 8),
        (lambda conn: overview.image_lines(conn, study=None, limit=40), 4),
    ],
)
def test_a_look_at_the_newest_costs_the_same_however_much_is_stored(tmp_path, look, statements):
    costs = []
    for size in (10, 500):
        database = open_database(tmp_path / f"{size}.sqlite", datetime.now(UTC))
        _fill(database, size, datetime.now(UTC))
        costs.append(asked(database, look))
        database.close()
    few, many = costs
    assert few[0] == many[0] == statements
    assert many[1] <= 1.3 * few[1]
