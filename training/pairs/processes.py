"""The same work on many items, over the cores of this machine, in order."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


def in_processes(
    work: Callable[[Item], Done], items: Sequence[Item], processes: int | None = None
) -> Iterator[Done]:
    """Yield what `work`, picklable, makes of each item, in order.

    processes  all cores if None; with 1, or a single item, all is done in this process.
    """
    if processes == 1 or len(items) < 2:
        yield from (work(item) for item in items)
        return
    # spawn: forking a process in which torch has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    with (
        _single_threaded_children(),
        ProcessPoolExecutor(
            processes or os.cpu_count() or 1, mp_context=context, initializer=_end_with_parent
        ) as pool,
    ):
        yield from pool.map(work, items, chunksize=4)


def _end_with_parent() -> None:
    """Let a worker process end when the process that started it is killed, instead of waiting for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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
