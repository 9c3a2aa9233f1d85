"""Decoding in a process of its own, for the decoders that damaged bytes can bring down.

GDCM 3.2 ends the whole process on some damaged JPEG Lossless streams (an uncaught C++ exception), and
CharLS needs seconds to minutes to give up on some damaged JPEG-LS streams. A node must not die or stall
of one image: here the damage ends with the child. The price is its start, about half a second an image.
"""

from __future__ import annotations

import io
import resource
import signal
import subprocess
import sys
from pathlib import Path

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


def decode_isolated(path: Path, index: int, plugin: str) -> NDArray[np.generic]:
    """The stored values of frame `index` (from 0), as `pydicom.pixels.pixel_array` gives them.

    Raises PixelsUnreadable if the decoder says no, crashes or uses up its time; DecodingInterrupted if the
    child could not be started, or was ended by somebody else, even without a word of it in its status.
    """
    command = [sys.executable, "-P", "-m", __name__, str(path), str(index), plugin]
    try:
        # What the child has to say may quote the file: it is not kept.
        ran = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DecodingInterrupted(
            f"{plugin} did not finish frame {index + 1} in {_TIMEOUT_S:.0f} s on a busy machine"
        ) from None
    except OSError as error:
        raise DecodingInterrupted(f"{plugin} could not be started ({error.strerror})") from error
    if ran.returncode == -signal.SIGXCPU:
        raise PixelsUnreadable(
            f"{plugin} did not finish frame {index + 1} in {_PROCESSOR_S} s of processor time"
        )
    if ran.returncode == _EXIT_UNREADABLE:
        raise PixelsUnreadable(f"{plugin} failed on frame {index + 1}")
    if -ran.returncode in _CRASHES:
        raise PixelsUnreadable(f"{plugin} was ended by signal {-ran.returncode} on frame {index + 1}")
    if ran.returncode != 0:
        how = f"status {ran.returncode}" if ran.returncode > 0 else f"signal {-ran.returncode}"
        raise DecodingInterrupted(f"{plugin} ended with {how} on frame {index + 1}")
    try:
        values: NDArray[np.generic] = np.load(io.BytesIO(ran.stdout), allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise DecodingInterrupted(
            f"{plugin} ended on frame {index + 1} before its answer was whole"
        ) from error
    return values


def is_lost_memory_error(error: Exception, plugin: str) -> bool:
    """pydicom keeps of a plug-in's error only the text: nothing for Python's own, this for NumPy's."""
    last = str(error).rpartition("\n")[2].strip()
    lost = last == f"{plugin}:" or last.startswith(f"{plugin}: Unable to allocate")
    return isinstance(error, RuntimeError) and lost


def _limit_processor_time(seconds: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = seconds if hard == resource.RLIM_INFINITY else min(seconds, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _child(path: Path, index: int, plugin: str) -> None:
    # As a KeyboardInterrupt it could be taken for an error of the parser, and that for one of the image.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _limit_processor_time(_PROCESSOR_S)
    with open_part10(path) as file, pydicom_quiet():
        read_dataset(file)  # for its allowance of bytes
        try:
            values = pixel_array(file, index=index, decoding_plugin=plugin)
        # Boundary: each decoder raises its own errors.
        except Exception as error:
            file.raise_trouble(error)
            if is_lost_memory_error(error, plugin):
                raise
            sys.exit(_EXIT_UNREADABLE)
        file.raise_trouble()
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    _child(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
