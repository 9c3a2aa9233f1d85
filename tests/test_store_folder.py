"""Data folders that cannot carry a node: each is refused before anything starts, with the next step."""

import os
import shutil
import sqlite3
import subprocess
from datetime import UTC, datetime

import pytest
import yaml

from dicom_node.core.errors import DatabaseDamaged, FolderUnfit, SchemaMismatch
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.folder import file_system_of, require_fit
from harness import EMODE, node_config

NOW = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "data")
    layout.create()
    open_database(layout.database, NOW).close()
    return layout


def test_a_folder_that_works_and_one_that_is_still_to_be_made_are_fit(layout, tmp_path):
    require_fit(layout)
    require_fit(Layout(tmp_path / "not" / "there" / "yet"))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(FolderUnfit, match="is not a folder"):
        require_fit(Layout(tmp_path / "data"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_another_user_names_both(layout):
    os.chown(layout.root, 65534, -1)
    with pytest.raises(FolderUnfit, match="belongs to nobody, and this is root"):
        require_fit(layout)


def test_a_read_only_file_system_is_named(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system (root may)")
    try:
        with pytest.raises(FolderUnfit, match="read-only file system"):
            require_fit(Layout(tmp_path / "data"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_kind_of_file_system_is_that_of_the_nearest_mount(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        f"99 21 0:52 / {tmp_path} rw,relatime shared:1 - nfs4 server:/share rw\n"
    )
    assert file_system_of(tmp_path / "x", mounts) == "nfs4"
    assert file_system_of(tmp_path.parent, mounts) == "ext4"
    assert file_system_of(tmp_path, tmp_path / "none") is None
    monkeypatch.setattr("dicom_node.store.folder.file_system_of", lambda path: "nfs4")
    with pytest.raises(FolderUnfit, match="on nfs4, which other machines share"):
        require_fit(Layout(tmp_path))


def _garbage(path):
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)


def _damaged(path):
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA journal_mode=DELETE")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)  # behind the file's header: the page that names the tables
        file.write(os.urandom(size - 100))


def _foreign(path):
    path.unlink()
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE bookmarks (url TEXT)")


def _newer(path):
    with sqlite3.connect(path) as conn:
        conn.execute("INSERT INTO applied_migrations VALUES (999, 'future', '2030-01-01 00:00:00')")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_garbage, DatabaseDamaged, "file is not a database; stop the node, keep a copy"),
        (_damaged, DatabaseDamaged, "stop the node, keep a copy"),
        (_foreign, SchemaMismatch, "tables of another program"),
        (_newer, SchemaMismatch, "install the newer version again"),
    ],
)
def test_a_database_that_is_not_ours_to_use_stops_the_start(layout, tmp_path, spoil, error, words):
    spoil(layout.database)
    before = layout.database.read_bytes()
    with pytest.raises(error, match=words):
        require_fit(layout)
    config = tmp_path / "node.yaml"
    config.write_text(yaml.safe_dump(node_config(tmp_path, {"archive": ("PACS", 1)})))
    for command in (["serve", "--config"], ["check"]):
        ran = subprocess.run(
            [str(EMODE), *command, str(config)], capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 1
        assert words in " ".join(ran.stderr.split())
        assert "Traceback" not in ran.stderr
    assert layout.database.read_bytes() == before
