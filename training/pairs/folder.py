"""The pair folder: how B-mode and strain lie on disk, simulated or a hospital's own.

A folder holds `dataset.json` and one `pair-<key>.npz` for each pair, read in the order of
their names. `dataset.json`: {"format": "emode-pairs", "version": 1, "simulated": bool, "maker": text,
"maker_version": int, "note": text}; `simulated` speaks of the strain. Each npz:

  bmode       uint8 (H, W)    the B-mode frame, nothing but tissue
  strain      uint8 (H, W)    255 x strain index; 255 is soft, 0 is hard
  mask        uint8 (H, W)    optional; 1 in the lesion
  spacing_mm  float           one pixel, the same in both directions
  info        text            optional JSON object: seed or file, kind or label, and `group`: what must
                              stay on one side of a split, as a patient's pseudonym
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import OnlyForJudging, PairFolderInvalid, PairInvalid
from training.pairs.pair import Pair
from training.replacing import replacing

FORMAT, VERSION = "emode-pairs", 1
REFEREE = "referee"
"""Maker of the pairs that only judge."""
_HEADER_KEYS = {"format", "version", "simulated", "maker", "maker_version", "note"}


@dataclass(frozen=True)
class Maker:
    """What made a folder; its version is raised when it would make other pairs than before."""

    name: str
    version: int
    simulated: bool
    """The strain was computed, not measured."""


@dataclass(frozen=True)
class PairFolder:
    """A readable folder of pairs."""

    root: Path
    maker: Maker
    files: tuple[Path, ...]
    note: str = ""
    """What the pairs were made from, where the maker alone does not tell."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def simulated(self) -> bool:
        return self.maker.simulated

    def read(self, index: int) -> Pair:
        return read_pair(self.files[index])


def open_folder(root: Path) -> PairFolder:
    """Open a folder of pairs; PairFolderInvalid names what is wrong with it."""
    header_file = root / "dataset.json"
    try:
        header = json.loads(header_file.read_text())
    except FileNotFoundError:
        raise PairFolderInvalid(f"{header_file} is missing", path=root) from None
    except json.JSONDecodeError as error:
        raise PairFolderInvalid(f"{header_file} is not JSON ({error})", path=root) from error
    if (
        not isinstance(header, dict)
        or header.get("format") != FORMAT
        or header.get("version") != VERSION
        or set(header) != _HEADER_KEYS
    ):
        keys = ", ".join(sorted(_HEADER_KEYS))
        raise PairFolderInvalid(f"{header_file} is not {FORMAT} version {VERSION} with {keys}", path=root)
    maker = Maker(str(header["maker"]), int(header["maker_version"]), bool(header["simulated"]))
    return PairFolder(root, maker, tuple(sorted(root.glob("pair-*.npz"))), str(header["note"]))


def refuse_for_training(folder: PairFolder) -> None:
    """Raise OnlyForJudging if nothing may be learnt from these pairs, nor an epoch be chosen by them."""
    if folder.maker.name == REFEREE:
        raise OnlyForJudging(f"{folder.root} was made by the second simulator", path=folder.root)


def open_or_create(root: Path, maker: Maker, note: str = "") -> PairFolder:
    """Open a folder to add pairs to it; PairFolderInvalid if something else made what is there.

    note  what pairs are made from; a folder with another one is refused, none asks for nothing.
    """
    if not (root / "dataset.json").exists():
        write_header(root, maker, note)
    folder = open_folder(root)
    if folder.maker != maker:
        theirs, ours = (f"{m.name} version {m.version}" for m in (folder.maker, maker))
        raise PairFolderInvalid(f"{root} was made by {theirs}, this is {ours}; use another folder", path=root)
    if note and folder.note != note:
        raise PairFolderInvalid(f'{root} holds "{folder.note}", not "{note}"; use another folder', path=root)
    return folder


def write_header(root: Path, maker: Maker, note: str = "") -> None:
    """Write dataset.json, once, before the first pair."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "simulated": maker.simulated,
        "maker": maker.name,
        "maker_version": maker.version,
        "note": note,
    }
    root.mkdir(parents=True, exist_ok=True)
    with replacing(root / "dataset.json") as file:
        file.write(json.dumps(header, indent=2).encode())


def write_pair(path: Path, pair: Pair) -> None:
    """Write one pair; a file that is there is whole."""
    arrays: dict[str, Any] = {
        "bmode": pair.bmode,
        "strain": np.round(pair.strain * 255).astype(np.uint8),
        "spacing_mm": np.float64(pair.spacing_mm),
        "info": np.str_(json.dumps(pair.info, sort_keys=True)),
    }
    if pair.mask is not None:
        arrays["mask"] = pair.mask.astype(np.uint8)
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def read_pair(path: Path) -> Pair:
    """Read one pair; PairInvalid names the file and the array that is wrong."""
    with np.load(path, allow_pickle=False) as stored:
        for name in ("bmode", "strain"):
            if name not in stored or stored[name].dtype != np.uint8 or stored[name].ndim != 2:
                raise PairInvalid(f'{path}: "{name}" must be uint8 (H, W)', path=path)
        bmode, strain = stored["bmode"], stored["strain"]
        mask = stored["mask"].astype(bool) if "mask" in stored else None
        if strain.shape != bmode.shape or (mask is not None and mask.shape != bmode.shape):
            raise PairInvalid(f"{path}: bmode, strain and mask differ in shape", path=path)
        info = json.loads(str(stored["info"])) if "info" in stored else {}
        spacing = float(stored["spacing_mm"]) if "spacing_mm" in stored else 0.0
    return Pair(bmode, strain.astype(np.float32) / 255, mask, spacing, info)
