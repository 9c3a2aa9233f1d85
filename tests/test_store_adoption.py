"""What a power cut can do to received files, done by hand: back into incoming/ under the spool's name."""

import os
from datetime import UTC, datetime

import pydicom
import pytest

from dicom_node.core.rules import Route
from dicom_node.store import files
from dicom_node.store.adoption import adopt
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.process import Bells
from dicom_node.store.schema import images
from dicom_node.store.together import Together
from dicom_node.work.receive import Reception
from harness import Node, node_config, received_from
from peers.scanner import store_alone
from peers.still import breast_still, write

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def still(number, tmp_path):
    ds = breast_still(rows=64, columns=64, seed=number, instance_number=number)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
    return write(ds, tmp_path / f"{number}.dcm")


@pytest.fixture
def layout(tmp_path):
    made = Layout(tmp_path / "data")
    made.create()
    return made


@pytest.fixture
def database(layout):
    opened = open_database(layout.database, NOW)
    yield opened
    opened.close()


@pytest.fixture
def kept(layout, database, tmp_path):
    """Where a received image is kept."""
    route = Route("breast", "EMODE", "default", ("pacs",))
    reception = Reception(Together(database), layout, Bells(layout.bells), (route,), 3, lambda: NOW)
    received = received_from(still(1, tmp_path), layout.incoming)
    reception.take(received)
    received.spool.close()
    return layout.source(received.spool.digest)


def cut(place, layout, name=f"tmp1-{1:032x}.dcm"):
    """The disk does not know yet that this file was renamed."""
    back = layout.incoming / name
    place.replace(back)
    return back


def test_a_file_that_a_row_needs_gets_its_place_again(kept, layout, database):
    content = kept.read_bytes()
    back = cut(kept, layout)
    assert adopt(database, layout) == 1
    assert not back.exists()
    assert kept.read_bytes() == content
    assert adopt(database, layout) == 0


def test_also_where_its_folder_is_lost_too(kept, layout, database):
    cut(kept, layout)
    kept.parent.rmdir()
    kept.parent.parent.rmdir()
    assert adopt(database, layout) == 1
    assert kept.exists()


def test_what_nobody_needs_is_left_to_who_sweeps(kept, layout, database, tmp_path):
    def forget(**values):
        with database.write() as conn:
            conn.execute(images.update().values(**values))

    second = layout.incoming / "second.dcm"
    second.write_bytes(kept.read_bytes())  # the same again: it has its place
    unknown = received_from(still(2, tmp_path), layout.incoming).spool.path
    half = layout.incoming / "half.dcm"
    half.write_bytes(kept.read_bytes()[:-100])
    begun = layout.incoming / "begun.dcm"
    begun.write_bytes(kept.read_bytes()[:50])
    empty = layout.incoming / "empty.dcm"
    empty.touch()
    assert adopt(database, layout) == 0
    forget(purged_at=NOW)
    kept.unlink()
    assert adopt(database, layout) == 0
    assert set(layout.incoming.iterdir()) == {second, unknown, half, begun, empty}
    forget(purged_at=None)
    assert adopt(database, layout) == 1
    assert not second.exists()


def test_a_second_cut_in_the_middle_changes_nothing(kept, layout, database, monkeypatch):
    cut(kept, layout)

    def power_cut(path):
        raise SystemExit

    monkeypatch.setattr(files, "sync", power_cut)
    with pytest.raises(SystemExit):
        adopt(database, layout)
    monkeypatch.undo()
    if kept.exists():  # the disk knew; or it did not
        cut(kept, layout)
    assert adopt(database, layout) == 1


def test_nothing_that_was_acknowledged_is_lost(tmp_path):
    """Every process killed while objects arrive, and files back where they were spooled, half of them."""
    config = node_config(tmp_path, {"archive": ("PACS", 1)}, listen={"processes": 2})
    node = Node(tmp_path, config, only=("receiver",)).start(roles=())
    layout = Layout(tmp_path / "data")
    try:
        node.wait(lambda: node.events("node-ready"), "both are ready")
        datasets = [pydicom.dcmread(still(number, tmp_path)) for number in range(12)]
        assert all(store_alone(node.port, ds) for ds in datasets)
        node.kill()
        before = {path: path.read_bytes() for _, _, path in layout.stored()}
        assert len(before) == 12
        for number, path in enumerate(sorted(before)[::2]):
            cut(path, layout, f"tmp{1 + number % 3}-{number:032x}.dcm")
        (layout.incoming / f"tmp1-{99:032x}.dcm").touch()
        (layout.incoming / f"tmp2-{98:032x}.dcm").write_bytes(os.urandom(1000))
        seen = len(node.log)
        node.start(roles=())
        node.wait(lambda: node.events("node-ready", after=seen), "both are back")
        assert {path: path.read_bytes() for _, _, path in layout.stored()} == before
        assert list(layout.incoming.iterdir()) == []
        assert sum(line["count"] for line in node.events("files-adopted")) == 6
        assert len(node.images()) == 12
    finally:
        if node.supervisor_pid is not None:
            node.kill()
