"""Where the pairs of an evaluation come from: read one at a time, from one folder or several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from training.errors import TooFewPairs
from training.pairs.folder import PairFolder, open_folder
from training.pairs.pair import Pair


class Pairs(Protocol):
    """Pairs by number; a list will do, and a folder reads the one that is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pair: ...


class FolderPairs:
    """The pairs of several folders in a row; nothing is kept in memory."""

    def __init__(self, folders: Sequence[PairFolder]) -> None:
        self.folders = tuple(folders)
        self.files = tuple(file for folder in folders for file in folder.files)
        self._places = [(folder, i) for folder in folders for i in range(len(folder))]

    @property
    def simulated(self) -> bool:
        """Strain of at least one folder was computed, not measured."""
        return any(folder.simulated for folder in self.folders)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> Pair:
        folder, i = self._places[index]
        return folder.read(i)


def open_pairs(roots: Sequence[Path]) -> FolderPairs:
    """Open folders of pairs; PairFolderInvalid names what is wrong, TooFewPairs if all are empty."""
    pairs = FolderPairs([open_folder(root) for root in roots])
    if not len(pairs):
        raise TooFewPairs(f"{', '.join(str(root) for root in roots)} hold no pairs")
    return pairs
