"""What one image costs in statements, syncs and bytes: counts that do not depend on the machine.

A change that raises one of these makes every image slower on every machine; then it is argued for here.
"""

import os
from collections import Counter
from datetime import UTC, datetime

import pytest

from dicom_node.core.rules import Route
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.process import Bells
from dicom_node.store.together import Together
from dicom_node.work import receive
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
    with database.write() as conn:  # all that SQLite is asked to do, whoever asks
        conn.connection.driver_connection.set_trace_callback(
            lambda sql: counted.update(commits=1) if sql == "COMMIT" else counted.update(statements=1)
        )
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

    def take(number, kinds=("statements", "commits", "syncs")):
        ds = breast_still(rows=64, columns=64, instance_number=number)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        path = write(ds, tmp_path / "image.dcm")
        counted.clear()
        reception.take(received_from(path, layout.incoming))
        return {kind: counted[kind] for kind in kinds}

    yield take
    database.close()


def test_an_image_of_a_known_study(costs):
    costs(1)
    # Begin; ours? known? file back? study? study grew; image; job. The file, its folder; the commit syncs
    # the log by itself, which SQLite does and nobody counts here.
    for number in range(2, 6):
        assert costs(number) == {"statements": 8, "commits": 1, "syncs": 2}


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
