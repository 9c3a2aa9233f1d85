"""Fill a pair folder from numbered pairs: parallel over cores, resumable."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2

from training.pairs.folder import Maker, open_or_create, write_pair
from training.pairs.pair import Pair


def _end_with_parent() -> None:
    """Let a worker process end when the process that started it is killed, instead of waiting for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def pair_path(root: Path, seed: int) -> Path:
    """Return where the pair of a number, mostly its seed, lies in a folder."""
    return root / f"pair-{seed:08d}.npz"


def write_made(seed: int, root: Path, make: Callable[[int], Pair]) -> int:
    """Make and store one pair; returns its number. Runs in a worker process."""
    cv2.setNumThreads(1)
    write_pair(pair_path(root, seed), make(seed))
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


def generate(
    root: Path,
    seeds: Sequence[int],
    make: Callable[[int], Pair],
    maker: Maker,
    processes: int | None = None,
) -> Iterator[int]:
    """Yield each number as its pair is stored; those that are there already come first, for free.

    make   a picklable function of the number alone, so that the data set is its list of numbers.
    Raises PairFolderInvalid if another maker, or another version of it, filled the folder before.
    """
    present = set(open_or_create(root, maker).files)
    missing = []
    for seed in seeds:
        if pair_path(root, seed) in present:
            yield seed
        else:
            missing.append(seed)
    if processes == 1 or len(missing) < 2:
        yield from (write_made(seed, root, make) for seed in missing)
        return
    # spawn: forking a process in which torch has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    with (
        _single_threaded_children(),
        ProcessPoolExecutor(
            processes or os.cpu_count() or 1, mp_context=context, initializer=_end_with_parent
        ) as pool,
    ):
        yield from pool.map(partial(write_made, root=root, make=make), missing, chunksize=4)
