"""Files put together in memory, and written to the disk from there in one go.

What is written like that is read once more at most, by the courier. So it goes past the page cache: the
kernel then neither copies it nor looks for pages to copy it to, which takes longer than anything else about a
result where memory has to be found first. And nothing that others read again is pushed out.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK = 4096
"""Bytes. Length and place of what goes past the page cache are multiples of the disk's blocks."""
_GROWS_BY = 1 << 20
_KEPT_AT_MOST = 1 << 25
"""Bytes of a sheet that is kept for the next file: no picture of an ordinary size needs more."""
_HEAD = 512
"""Bytes that are read with one call where fewer are asked for: the beginning of a DICOM file."""
_DIRECT = getattr(os, "O_DIRECT", 0)


class Sheet:
    """One file on its way, in memory that begins at a page."""

    def __init__(self) -> None:
        """It is empty."""
        self._memory = mmap(-1, _GROWS_BY)
        self.size = 0

    @property
    def room(self) -> int:
        """Bytes that it holds without growing."""
        return len(self._memory)

    def write(self, some: bytes | memoryview) -> int:
        """Go on with these bytes, as a file does."""
        end = self.size + len(some)
        self.reserve(end)
        self._memory[self.size : end] = some
        self.size = end
        return len(some)

    def reserve(self, size: int) -> None:
        """Have room for so many bytes."""
        if size > self.room:
            larger = mmap(-1, -(-size // _GROWS_BY) * _GROWS_BY)
            larger[: self.size] = self.view()
            self._memory = larger

    def view(self) -> memoryview:
        """What is in it, until it is written on again."""
        return memoryview(self._memory)[: self.size]

    def digest(self) -> str:
        """SHA-256 of what is in it, hexadecimal."""
        return hashlib.sha256(self.view()).hexdigest()

    def save(self, path: Path) -> None:
        """Write it to a new file; not durable yet. Raises OSError."""
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            # Whole blocks, and then cut off at the end.
            end = -(-self.size // _BLOCK) * _BLOCK
            self._memory[self.size : end] = bytes(end - self.size)
            _write_past_cache(fd, memoryview(self._memory)[:end])
            os.ftruncate(fd, self.size)
        finally:
            os.close(fd)

    def load(self, fd: int) -> bool:
        """Read a whole file past the page cache; False if its file system knows no such way. Raises OSError.

        No file of more than `_KEPT_AT_MOST` bytes.
        """
        size = os.fstat(fd).st_size
        self.reserve(size + 1)  # a block more, and the end shows
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, _DIRECT)
            while self.size < size:
                got = os.readv(fd, [memoryview(self._memory)[self.size :]])
                self.size += got
                if not got or self.size % _BLOCK:
                    break
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return self.size == size

    def clear(self) -> None:
        """Begin anew in the same memory."""
        self.size = 0


def _write_past_cache(fd: int, some: memoryview) -> None:
    """Through the cache where the file system knows no other way."""
    direct = _DIRECT
    if direct:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, direct)
        except OSError:
            direct = 0
    while some:
        try:
            some = some[os.write(fd, some) :]
        except OSError as error:
            if error.errno != errno.EINVAL or not direct:
                raise
            direct = 0
            fcntl.fcntl(fd, fcntl.F_SETFL, 0)


class Scratch:
    """Sheets for several threads, used again and again: new memory costs more than what is written on it."""

    def __init__(self) -> None:
        """There are none yet."""
        self._idle: deque[Sheet] = deque()

    @contextmanager
    def sheet(self) -> Iterator[Sheet]:
        """An empty sheet, for this block alone."""
        sheet = self._take()
        try:
            yield sheet
        finally:
            self._give_back(sheet)

    def open(self, path: Path) -> BinaryIO:
        """A file for reading; one that is not in the page cache is read whole, and does not come into it.

        Raises OSError.
        """
        file = path.open("rb", buffering=0)
        try:
            if _is_cached(file.fileno()) or os.fstat(file.fileno()).st_size >= _KEPT_AT_MOST:
                return file
            sheet = self._take()
            if sheet.load(file.fileno()):
                file.close()
                return io.BufferedReader(_Loaded(sheet, self), _HEAD)
            self._give_back(sheet)
            file.close()
            return path.open("rb", buffering=0)
        except BaseException:
            file.close()
            raise

    def _take(self) -> Sheet:
        try:
            return self._idle.pop()
        except IndexError:
            return Sheet()

    def _give_back(self, sheet: Sheet) -> None:
        if sheet.room <= _KEPT_AT_MOST:
            sheet.clear()
            self._idle.append(sheet)


class _Loaded(io.RawIOBase):
    """A file that is in memory whole."""

    def __init__(self, sheet: Sheet, scratch: Scratch) -> None:
        self._sheet: Sheet | None = sheet
        self._scratch = scratch
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, place: WriteableBuffer) -> int:
        room = memoryview(place).cast("B")
        some = self._view()[self._at : self._at + len(room)]
        room[: len(some)] = some
        self._at += len(some)
        return len(some)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._view())}[whence]
        self._at = begin + offset
        return self._at

    def close(self) -> None:
        sheet, self._sheet = self._sheet, None
        if sheet is not None:
            self._scratch._give_back(sheet)
        super().close()

    def _view(self) -> memoryview:
        if self._sheet is None:
            raise ValueError("the file is closed")
        return self._sheet.view()


def _is_cached(fd: int) -> bool:
    """Is the beginning of a file in the page cache? True where that cannot be told."""
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return True
    return True
