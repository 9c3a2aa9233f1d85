"""Decoding in a process of its own, for the decoders that damaged bytes can bring down.

GDCM 3.2 ends the whole process on some damaged JPEG Lossless streams (an uncaught C++ exception), and
CharLS needs seconds to minutes to give up on some damaged JPEG-LS streams. A node must not die or stall
of one image: here the damage ends with the child. The price is its start, about half a second an image.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from dicom_node.core.errors import PixelsUnreadable
from dicom_node.dicom.header import open_part10, pydicom_quiet, read_dataset

ISOLATED_PLUGINS = frozenset({"gdcm", "pyjpegls"})

_TIMEOUT_S = 30.0
"""Longer than either decoder needs for the largest sound frame, on a busy machine."""


def decode_isolated(path: Path, index: int, plugin: str) -> NDArray[np.generic]:
    """The stored values of frame `index` (from 0), as `pydicom.pixels.pixel_array` gives them.

    Raises PixelsUnreadable if the child fails, dies or does not finish.
    """
    command = [sys.executable, "-P", "-m", __name__, str(path), str(index), plugin]
    try:
        # What the child has to say may quote the file: it is not kept.
        ran = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise PixelsUnreadable(f"{plugin} did not finish frame {index + 1} in {_TIMEOUT_S:.0f} s") from None
    if ran.returncode != 0:
        how = "failed" if ran.returncode > 0 else f"was ended by signal {-ran.returncode}"
        raise PixelsUnreadable(f"{plugin} {how} on frame {index + 1}")
    values: NDArray[np.generic] = np.load(io.BytesIO(ran.stdout), allow_pickle=False)
    return values


def _child(path: Path, index: int, plugin: str) -> None:
    with open_part10(path) as file, pydicom_quiet():
        read_dataset(file)  # for its allowance of bytes
        values = pixel_array(file, index=index, decoding_plugin=plugin)
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    _child(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
