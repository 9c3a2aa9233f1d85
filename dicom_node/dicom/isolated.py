"""Decoding in a process of its own, for the decoders that damaged bytes can bring down.

GDCM 3.2 ends the whole process on some damaged JPEG Lossless streams (an uncaught C++ exception), and
CharLS needs seconds to minutes to give up on some damaged JPEG-LS streams. A node must not die or stall
of one image: here the damage ends with the child.

A child that starts from nothing takes about half a second to load what decoding needs. So a host is started
once, loads it, and forks a child for each image; the host itself touches no image, and what a decoder does to
its memory, noticed or not, is gone with its child. Hosts wait for the next image, and end with this process.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from dicom_node.core.errors import DecodingInterrupted, PixelsUnreadable
from dicom_node.dicom.header import open_part10, pydicom_quiet, read_dataset

ISOLATED_PLUGINS = frozenset({"gdcm", "pyjpegls"})

_PROCESSOR_S = 30
"""Longer than either decoder needs for the largest sound frame. The kernel ends the child after it."""

_TIMEOUT_S = 60.0
"""By the clock: a child that used less of the processor until then was kept from it by others."""

_EXIT_UNREADABLE = 65
"""The decoder said no (EX_DATAERR). Python's own 1 may mean that it could not even start."""

_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU}
)
"""Signals that a decoder brings upon itself. Any other one came from outside: the OOM killer, a person."""

_ANSWER = struct.Struct("<iQ")
"""How the child ended, as `subprocess` counts it, and how many bytes it left."""


def decode_isolated(path: Path, index: int, plugin: str) -> NDArray[np.generic]:
    """The stored values of frame `index` (from 0), as `pydicom.pixels.pixel_array` gives them.

    Raises PixelsUnreadable if the decoder says no, crashes or uses up its time; DecodingInterrupted if the
    child could not be started, or was ended by somebody else, even without a word of it in its status.
    """
    host = _waiting_host() or _Host(plugin)
    try:
        ended, answer = host.decode(path, index, plugin)
    except TimeoutError:
        host.end()
        raise DecodingInterrupted(
            f"{plugin} did not finish frame {index + 1} in {_TIMEOUT_S:.0f} s on a busy machine"
        ) from None
    except (OSError, EOFError):
        ended, answer = host.end(), b""
    else:
        _waiting.append(host)
    _raise_unless_decoded(ended, index, plugin)
    try:
        values: NDArray[np.generic] = np.load(io.BytesIO(answer), allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise DecodingInterrupted(
            f"{plugin} ended on frame {index + 1} before its answer was whole"
        ) from error
    return values


def _raise_unless_decoded(ended: int, index: int, plugin: str) -> None:
    if ended == -signal.SIGXCPU:
        raise PixelsUnreadable(
            f"{plugin} did not finish frame {index + 1} in {_PROCESSOR_S} s of processor time"
        )
    if ended == _EXIT_UNREADABLE:
        raise PixelsUnreadable(f"{plugin} failed on frame {index + 1}")
    if -ended in _CRASHES:
        raise PixelsUnreadable(f"{plugin} was ended by signal {-ended} on frame {index + 1}")
    if ended != 0:
        how = f"status {ended}" if ended > 0 else f"signal {-ended}"
        raise DecodingInterrupted(f"{plugin} ended with {how} on frame {index + 1}")


class _Host:
    """This side of a process that forks a child for each image; one image at a time."""

    def __init__(self, plugin: str) -> None:
        """Start it; raises DecodingInterrupted if that cannot be."""
        try:
            # What a child has to say may quote the file: it is not kept. A group of its own, to end both.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # a process with threads forks badly
                process_group=0,
                bufsize=0,
            )
        except OSError as error:
            raise DecodingInterrupted(f"{plugin} could not be started ({error.strerror})") from error

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def decode(self, path: Path, index: int, plugin: str) -> tuple[int, bytes]:
        """How the child ended, and what it left; TimeoutError, or OSError or EOFError if the host is gone."""
        deadline = time.monotonic() + _TIMEOUT_S
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(path), index, plugin]).encode() + b"\n")
        ended, size = _ANSWER.unpack(self._read(_ANSWER.size, deadline))
        return ended, self._read(size, deadline)

    def end(self) -> int:
        """End it, and what it may have forked, if it lives; say how it ended."""
        try:
            ended = self._process.wait(timeout=1.0 if self._at_its_end() else 0.0)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            ended = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return ended

    def _at_its_end(self) -> bool:
        """Has it closed its output, as processes do that end?"""
        assert self._process.stdout is not None
        ready = select.poll()
        ready.register(self._process.stdout, select.POLLIN)
        return any(event & select.POLLHUP for _, event in ready.poll(0))

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        channel = self._process.stdout.fileno()
        ready = select.poll()
        ready.register(channel, select.POLLIN)
        found = bytearray()
        while len(found) < size:
            left_ms = 1000 * (deadline - time.monotonic())
            if left_ms <= 0 or not ready.poll(left_ms):
                raise TimeoutError
            piece = os.read(channel, min(size - len(found), 1 << 20))
            if not piece:
                raise EOFError
            found += piece
        return bytes(found)


_waiting: deque[_Host] = deque()
"""Hosts without an image: as many as images were ever decoded at once."""


def _waiting_host() -> _Host | None:
    while _waiting:
        with suppress(IndexError):  # another thread may have been quicker
            host = _waiting.pop()
            if host.lives:
                return host
            host.end()
    return None


@atexit.register
def end_hosts() -> None:
    """End every host that waits; the next image starts one."""
    while (host := _waiting_host()) is not None:
        host.end()


def is_lost_memory_error(error: Exception, plugin: str) -> bool:
    """pydicom keeps of a plug-in's error only the text: nothing for Python's own, this for NumPy's."""
    last = str(error).rpartition("\n")[2].strip()
    lost = last == f"{plugin}:" or last.startswith(f"{plugin}: Unable to allocate")
    return isinstance(error, RuntimeError) and lost


def _limit_processor_time(seconds: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = seconds if hard == resource.RLIM_INFINITY else min(seconds, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _serve() -> None:
    """Fork a child for each line of the input; tell on the output how it ended, and what it left."""
    # As a KeyboardInterrupt it could be taken for an error of the parser, and that for one of the image.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import_module("pydicom.pixels.decoders")
    for line in sys.stdin.buffer:
        path, index, plugin = json.loads(line)
        its_end, our_end = os.pipe()[::-1]
        child = os.fork()
        if child == 0:
            _child(Path(path), index, plugin, its_end)
        os.close(its_end)
        with os.fdopen(our_end, "rb") as pipe:
            left = pipe.read()
        _, status = os.waitpid(child, 0)
        sys.stdout.buffer.write(_ANSWER.pack(os.waitstatus_to_exitcode(status), len(left)))
        sys.stdout.buffer.write(left)
        sys.stdout.buffer.flush()


def _child(path: Path, index: int, plugin: str, channel: int) -> NoReturn:
    """Decode, write to the channel, end. Whatever happens, nothing of the host is flushed or run again."""
    ended = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)  # a child that hangs must not hold the host's output open
        _limit_processor_time(_PROCESSOR_S)
        values = _decode(path, index, plugin)
        if values is None:
            ended = _EXIT_UNREADABLE
        else:
            buffer = io.BytesIO()
            np.save(buffer, values, allow_pickle=False)
            with os.fdopen(channel, "wb") as pipe:
                pipe.write(buffer.getbuffer())
            ended = 0
    finally:
        os._exit(ended)


def _decode(path: Path, index: int, plugin: str) -> NDArray[np.generic] | None:
    """The frame, or None if the decoder says no; raises what is this machine's fault."""
    with open_part10(path) as file, pydicom_quiet():
        read_dataset(file)  # for its allowance of bytes
        try:
            values: NDArray[np.generic] = pixel_array(file, index=index, decoding_plugin=plugin)
        # Boundary: each decoder raises its own errors.
        except Exception as error:
            file.raise_trouble(error)
            if is_lost_memory_error(error, plugin):
                raise
            return None
        file.raise_trouble()
        return values


if __name__ == "__main__":
    _serve()
