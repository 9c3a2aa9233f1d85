"""Fill a pair folder with simulated pairs: parallel over cores, resumable."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2

from training.data import open_folder, write_header, write_pair
from training.simulate import simulate_pair


def _end_with_parent() -> None:
    """Let a worker process end when the process that started it is killed, instead of waiting for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def pair_path(root: Path, seed: int) -> Path:
    """Return where the pair of a seed lies in a simulated folder."""
    return root / f"pair-{seed:08d}.npz"


def write_simulated(seed: int, root: Path) -> int:
    """Simulate and store one seed; returns the seed. Runs in a worker process."""
    cv2.setNumThreads(1)
    write_pair(pair_path(root, seed), simulate_pair(seed))
    return seed


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Processes started inside use one BLAS thread each: they already fill the cores."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def generate(root: Path, seeds: range, processes: int | None = None) -> Iterator[int]:
    """Yield each seed as its pair is stored; seeds that are there already come first, for free."""
    if not (root / "dataset.json").exists():
        write_header(root, simulated=True, note="made by emode-train simulate")
    present = set(open_folder(root).files)
    missing = []
    for seed in seeds:
        if pair_path(root, seed) in present:
            yield seed
        else:
            missing.append(seed)
    if processes == 1 or len(missing) < 2:
        yield from (write_simulated(seed, root) for seed in missing)
        return
    # spawn: forking a process in which torch has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    with (
        _single_threaded_children(),
        ProcessPoolExecutor(
            processes or os.cpu_count() or 1, mp_context=context, initializer=_end_with_parent
        ) as pool,
    ):
        yield from pool.map(partial(write_simulated, root=root), missing, chunksize=4)
