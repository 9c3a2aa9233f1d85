"""Fill a pair folder from numbered pairs: parallel over cores, resumable."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2

from training.pairs.folder import Maker, open_or_create, write_pair
from training.pairs.pair import Pair
from training.pairs.processes import in_processes


def pair_path(root: Path, seed: int) -> Path:
    """Return where the pair of a number, mostly its seed, lies in a folder."""
    return root / f"pair-{seed:08d}.npz"


def write_made(seed: int, root: Path, make: Callable[[int], Pair]) -> int:
    """Make and store one pair; returns its number. Runs in a worker process."""
    cv2.setNumThreads(1)
    write_pair(pair_path(root, seed), make(seed))
    return seed


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
    yield from in_processes(partial(write_made, root=root, make=make), missing, processes)
