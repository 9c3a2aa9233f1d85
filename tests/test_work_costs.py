"""What one image costs in statements, syncs and bytes: counts that do not depend on the machine.

A change that raises one of these makes every image slower on every machine; then it is argued for here.
"""

import os
from collections import Counter
from datetime import UTC, datetime

import cv2
import pytest
from sqlalchemy import event

from bench.growth import _fill
from dicom_node.core.retention import RetentionPolicy
from dicom_node.core.rules import Route
from dicom_node.dicom import reading
from dicom_node.dicom.reading import SourceImage, read_image
from dicom_node.network.blanks import BlankFiles
from dicom_node.store import overview
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.jobs import claim, finish
from dicom_node.store.process import Bells
from dicom_node.store.together import Together
from dicom_node.work import infer, receive
from dicom_node.work.make import Model
from dicom_node.work.receive import INFER_LANE, Reception
from harness import received_from
from peers.still import breast_still, region, write
from test_work_batches import FACTS, GREYS, NOW, Passes, infer_with


def count_statements(database, counted):
    """Count all that SQLite is asked to write, whoever asks."""
    with database.write() as conn:
        conn.connection.driver_connection.set_trace_callback(
            lambda sql: counted.update(commits=1) if sql == "COMMIT" else counted.update(statements=1)
        )


@pytest.fixture
def costs(tmp_path, monkeypatch):
    """A reception, and a counter of what it asks of disk and database."""
    layout = Layout(tmp_path / "data")
    layout.create()
    for number in range(256):  # a new one costs two syncs more, once
        (layout.root / "source" / f"{number:02x}").mkdir(parents=True)
    database = open_database(layout.database, datetime.now(UTC))
    counted = Counter()
    count_statements(database, counted)
    sync = os.fsync

    def counting(descriptor):
        counted.update(syncs=1)
        sync(descriptor)

    write_out = os.write

    def writing(descriptor, some):
        counted.update(bytes=len(some))
        return write_out(descriptor, some)

    monkeypatch.setattr(os, "fsync", counting)
    monkeypatch.setattr(os, "write", writing)
    route = Route("breast", "EMODE", "default", ("pacs",))
    reception = Reception(
        Together(database), layout, Bells(layout.bells), (route,), 5, lambda: datetime.now(UTC)
    )

    def take(number, kinds=("statements", "commits", "syncs"), *, blank=False):
        ds = breast_still(rows=64, columns=64, instance_number=number)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        path = write(ds, tmp_path / "image.dcm")
        files = BlankFiles(layout.incoming, 1)
        if blank:
            files.prepare()
        counted.clear()
        reception.take(received_from(path, layout.incoming, files))
        return {kind: counted[kind] for kind in kinds}

    yield take
    database.close()


def test_an_image_of_a_known_study(costs):
    costs(1)
    # Begin; ours? known? file back? study? study grew; image; job. The file, its folder; the commit syncs
    # the log by itself, which SQLite does and nobody counts here.
    for number in range(2, 6):
        assert costs(number) == {"statements": 8, "commits": 1, "syncs": 2}


def test_an_image_whose_file_was_made_before(costs):
    costs(1)
    # The file alone: its folder was synced while nobody waited, and its final name is not waited for.
    assert costs(2, blank=True) == {"statements": 8, "commits": 1, "syncs": 1}


def test_an_ordinary_image_is_written_once_and_not_read_back(costs, monkeypatch, tmp_path):
    def read_back(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(receive, "read_header", read_back)
    written = costs(1, ["bytes"])["bytes"]
    # The file meta information is ours, and need not be as long as the sender's.
    assert abs(written - (tmp_path / "image.dcm").stat().st_size) < 512


def test_the_same_image_again(costs):
    costs(1)
    assert costs(1) == {"statements": 6, "commits": 1, "syncs": 2}


def counting(monkeypatch, counted, owner, name):
    """Count the calls of a function where it is looked up."""
    original = getattr(owner, name)

    def call(*args, **kwargs):
        counted.update([name])
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(("regions", "searches"), [([], 6), ([region((20, 20, 580, 580))], 0)])
def test_reading_a_still(regions, searches, tmp_path, monkeypatch):
    """Decoded once. The title is looked for once for each height of its letters, where no region says that
    the picture is as a scanner made it. Parts are numbered, not measured pixel by pixel.
    """
    counted = Counter()
    path = write(breast_still(rows=600, columns=600, regions=regions), tmp_path / "a.dcm")
    assert isinstance(read_image(path), SourceImage)  # what is drawn once for all is drawn
    counting(monkeypatch, counted, reading, "decode_frame")
    for name in ("matchTemplate", "connectedComponentsWithStats", "connectedComponents"):
        counting(monkeypatch, counted, cv2, name)
    read_image(path)
    wanted = {"decode_frame": 1, "matchTemplate": searches, "connectedComponents": int(not regions)}
    assert counted == Counter({name: count for name, count in wanted.items() if count})


def test_an_image_through_the_worker(tmp_path, monkeypatch):
    """Its pixels are read once, go through the model once, and are written once."""
    layout = Layout(tmp_path / "data")
    layout.create()
    database = open_database(layout.database, NOW)
    route = Route("breast", "EMODE", "default", ("pacs",))
    reception = Reception(Together(database), layout, Bells(layout.bells), (route,), 3, lambda: NOW)
    passes, counted = Passes(), Counter()
    model = Model(passes, FACTS, GREYS, joins_frames=False)
    handler = infer_with(model, database, layout, route, delivery_attempts={"pacs": 5})
    for number in range(2):
        ds = breast_still(rows=200, columns=240, instance_number=number, seed=number)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        reception.take(received_from(write(ds, tmp_path / "image.dcm"), layout.incoming))
        with database.write() as conn:
            jobs = claim(conn, "infer", INFER_LANE, limit=1, owner="test", lease_s=60, now=NOW)
        if not number:
            count_statements(database, counted)
            counting(monkeypatch, counted, reading, "decode_frame")
            counting(monkeypatch, counted, infer, "write_result")
            counting(monkeypatch, counted, os, "fsync")
        counted.clear()
        (outcome,) = handler(jobs)
        with database.write() as conn:
            finish(conn, outcome.job, NOW, outcome.detail)
            outcome.effect(conn, NOW)
    database.close()
    assert passes.sizes == [1, 1]
    # Syncs: the file and its folder; a folder that is new, its parent and the one above.
    assert counted.pop("fsync") <= 4
    # Begin, image; begin, result known? Begin; job, its history; still these bytes? verdict; result known?
    # Result, link, delivery, the delivery's job.
    assert counted == {"decode_frame": 1, "write_result": 1, "statements": 14, "commits": 3}


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
