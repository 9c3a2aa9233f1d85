"""Files that are written and read past the page cache hold what was written, wherever the disk is."""

import hashlib
import os
from io import SEEK_CUR, SEEK_END
from pathlib import Path

import pytest

from dicom_node.store import scratch as module
from dicom_node.store.scratch import Scratch


def contents(size):
    return (b"%09d" % size) * (size // 9) + b"x" * (size % 9)


def saved(scratch, path, content):
    with scratch.sheet() as sheet:
        for at in range(0, len(content), 700_001):
            sheet.write(content[at : at + 700_001])
        digest = sheet.digest()
        sheet.save(path)
    return digest


def refuse_direct(monkeypatch):
    """As on a file system that knows no way past the cache, and says so at the flag."""
    fcntl = module.fcntl.fcntl

    def refusing(fd, command, argument=0):
        if argument:
            raise OSError(module.errno.EINVAL, "no way past the cache")
        return fcntl(fd, command, argument)

    monkeypatch.setattr(module.fcntl, "fcntl", refusing)


def refuse_blocks(monkeypatch):
    """... and that says so at the first bytes: its blocks are longer than we think."""
    write, readv = os.write, os.readv

    def is_direct(fd):
        return module.fcntl.fcntl(fd, module.fcntl.F_GETFL) & os.O_DIRECT

    def refusing(real):
        def call(fd, *rest):
            if is_direct(fd):
                raise OSError(module.errno.EINVAL, "blocks are longer here")
            return real(fd, *rest)

        return call

    monkeypatch.setattr(os, "write", refusing(write))
    monkeypatch.setattr(os, "readv", refusing(readv))


def forget(path):
    """Take a file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.mark.parametrize("hindrance", [None, refuse_direct, refuse_blocks])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 5, 3_000_001])
def test_what_is_written_is_there_and_is_read_back(tmp_path, monkeypatch, size, hindrance):
    if hindrance is not None:
        hindrance(monkeypatch)
    scratch = Scratch()
    # A longer one before it: nothing of that may be left behind the end.
    saved(scratch, tmp_path / "before", contents(2_000_000))
    content, path = contents(size), tmp_path / "file"
    assert saved(scratch, path, content) == hashlib.sha256(content).hexdigest()
    assert path.read_bytes() == content
    forget(path)
    with scratch.open(path) as file:
        assert file.read(3) == content[:3]
        assert file.seek(0, SEEK_END) == size
        file.seek(2)
        assert file.seek(1, SEEK_CUR) == 3
        assert file.read() == content[3:]


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        saved(Scratch(), tmp_path / "file", b"ours")
    assert (tmp_path / "file").read_bytes() == b"another's"


def test_memory_is_used_again_and_not_kept_without_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_AT_MOST", 1 << 21)
    scratch = Scratch()
    with scratch.sheet() as first, scratch.sheet() as second:
        assert first is not second
    with scratch.sheet() as again:
        assert again in (first, second)
        assert again.size == 0
        again.write(contents(5_000_000))
    with scratch.sheet() as other:
        assert other is not again
    saved(scratch, tmp_path / "file", contents(5_000_000))
    forget(tmp_path / "file")
    with scratch.open(tmp_path / "file") as file:  # too long to be held: from the file itself
        assert file.fileno() > 0
        assert file.read() == contents(5_000_000)


def test_what_is_in_the_cache_is_read_from_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(contents(100_000))
    with Scratch().open(path) as file:
        assert Path(f"/proc/self/fd/{file.fileno()}").resolve() == path
        assert file.read() == contents(100_000)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Scratch().open(tmp_path / "nothing")
