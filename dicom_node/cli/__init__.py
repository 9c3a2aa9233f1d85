"""The `emode` command."""

import os

# Before numpy is imported by anything: the small linear algebra here is slower, not faster, on several
# BLAS threads, and by a factor of ten when the machine is busy. The network brings its own threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from dicom_node.cli.main import main

__all__ = ["main"]
