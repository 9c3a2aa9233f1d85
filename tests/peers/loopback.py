"""The environment that real peers are started with: loopback only, and no waiting for small packets."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


@functools.cache
def peer_environment() -> dict[str, str]:
    """What to add to a peer's environment; without a C compiler it binds where it likes."""
    # DCMTK, and Orthanc with it, else wait some 45 ms for every instance (Nagle against delayed ACK).
    environment = {"TCP_NODELAY": "1"}
    library = build_shim(Path(__file__).with_name("loopback.c"))
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    return environment


@functools.cache
def build_shim(source: Path) -> Path | None:
    """Compile a library to preload; None where that cannot be done."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    folder = Path(tempfile.mkdtemp(prefix="emode-preload-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / f"{source.stem}.so"
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], capture_output=True, check=False
    )
    # A compiler without the C library's headers is no reason to fail a test of something else.
    return library if built.returncode == 0 else None
