"""Empty files that wait for objects: each has a name that the disk knows, and none is left over."""

import errno
import os
import stat

import pytest

from dicom_node.core.errors import StorageFull
from dicom_node.network import blanks
from dicom_node.network.blanks import BlankFiles, spooled_in
from dicom_node.network.spool import Spool, SpoolLimits


@pytest.fixture
def asked(monkeypatch):
    """What is asked of the disk, in order: ("made", path), ("synced", "folder" or "file")."""
    log, really_open, really_sync = [], os.open, os.fsync

    def opening(path, flags, *mode):
        if flags & os.O_CREAT:
            log.append(("made", str(path)))
        return really_open(path, flags, *mode)

    def syncing(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        log.append(("synced", "folder" if is_folder else "file"))
        really_sync(descriptor)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "fsync", syncing)
    return log


def test_what_is_given_has_a_name_that_the_disk_knows(tmp_path, asked):
    files = BlankFiles(tmp_path, 3)
    for _ in range(40):
        files.prepare()
        path, descriptor = files.take()
        known = len(asked) - asked[::-1].index(("synced", "folder"))
        assert asked.index(("made", str(path))) < known
        assert spooled_in(tmp_path)[0][1] == 3
        os.close(descriptor)
    # Several for one sync, once it is known that many come.
    assert asked[-36:].count(("synced", "folder")) <= 5


def test_there_are_no_more_than_objects_have_come_nor_than_eight(tmp_path):
    files = BlankFiles(tmp_path, 1)
    counts = []
    for _ in range(12):
        files.prepare()
        counts.append(len(list(tmp_path.iterdir())))
    assert counts[0] == 1
    assert all(count <= min(number, 8) for number, count in enumerate(counts, 1))
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_could_not_be_synced_is_not_given(tmp_path, monkeypatch):
    def failing(folder):
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(blanks, "sync", failing)
    files = BlankFiles(tmp_path, 1)
    files.prepare()
    assert files.take() is None
    monkeypatch.undo()
    files.prepare()
    assert files.take() is not None
    files.remove()
    assert len(list(tmp_path.iterdir())) == 1  # what was taken


def spool_into(folder, files=None):
    spool = Spool(SpoolLimits(folder, 1 << 20, lambda: None), "1.2.840.10008.1.2.1", files)
    spool.write(memoryview(b"content"))
    spool.end()
    return spool


def test_an_object_is_durable_where_it_lies_whoever_made_its_file(tmp_path, asked):
    files = BlankFiles(tmp_path, 1)
    files.prepare()
    asked.clear()
    waited = spool_into(tmp_path, files)
    waited.sync()
    assert asked == [("synced", "file")]
    asked.clear()
    first = spool_into(tmp_path, files)  # there is none left
    first.sync()
    assert asked == [("made", str(first.path)), ("synced", "file"), ("synced", "folder")]
    for spool in (waited, first):
        spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_file_is_said_by_the_object_that_needs_it(tmp_path):
    files = BlankFiles(tmp_path / "gone", 1)
    files.prepare()
    spool = spool_into(tmp_path / "gone", files)
    assert isinstance(spool.failure, StorageFull)
