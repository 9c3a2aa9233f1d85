"""Folders of B-mode stills with lesion masks and labels: read as the node would see them.

A folder holds `index.csv` with a line for each still and these columns, others being left unread:

  image                 PNG, JPEG or another picture file, relative to the folder
  label                 benign, malignant or normal
  near_duplicate_group  what must stay on one side of a split: a patient, or pictures of one lesion
  masks                 picture files beside the image, parted by spaces; white in a lesion, several are
                        united; empty for a still without a lesion

Each mask has the size of its image. Public sets come into this form by writing the index alone.
"""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_node.dicom.reading import pane_of_picture
from dicom_node.dicom.skip import Skip
from training.errors import StillInvalid, StillsInvalid

Label = Literal["benign", "malignant", "normal"]
LABELS: tuple[Label, ...] = get_args(Label)

_COLUMNS = ("image", "label", "near_duplicate_group", "masks")


@dataclass(frozen=True)
class Entry:
    """One line of the index."""

    number: int
    """Place in the index, from 0."""
    image: Path
    label: Label
    group: str
    masks: tuple[Path, ...]
    name: str
    """The image as the index names it."""


@dataclass(frozen=True, eq=False)
class Still:
    """One B-mode still, cut to its tissue."""

    frame: NDArray[np.uint8]
    """(H, W)."""
    mask: NDArray[np.bool_] | None
    """(H, W), the lesions; None without one."""
    label: Label
    group: str
    name: str


def read_index(root: Path) -> tuple[Entry, ...]:
    """Read the index of a folder; StillsInvalid names the line, the fact and what is allowed."""
    index = root / "index.csv"
    try:
        text = index.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StillsInvalid(f"{index} cannot be read ({error.strerror})", path=root) from error
    except UnicodeDecodeError as error:
        raise StillsInvalid(f"{index} is not UTF-8 text", path=root) from error
    lines = csv.DictReader(text.splitlines())
    missing = [column for column in _COLUMNS if column not in (lines.fieldnames or ())]
    if missing:
        raise StillsInvalid(f"{index} has no column {', '.join(missing)}", path=root)
    entries: list[Entry] = []
    names: set[str] = set()
    for number, line in enumerate(lines):
        where = f"{index} line {lines.line_num}"
        name, label, group, masks = ((line[column] or "").strip() for column in _COLUMNS)
        if not name or name in names:
            raise StillsInvalid(f'{where}: image "{name}" is {"repeated" if name else "empty"}', path=root)
        if label not in LABELS:
            raise StillsInvalid(f'{where}: label "{label}" is not one of {", ".join(LABELS)}', path=root)
        if not group:
            raise StillsInvalid(f"{where}: near_duplicate_group is empty", path=root)
        names.add(name)
        image = root / name
        paths = tuple(image.parent / mask for mask in masks.split())
        entries.append(Entry(number, image, cast(Label, label), group, paths, name))
    if not entries:
        raise StillsInvalid(f"{index} lists no still", path=root)
    return tuple(entries)


def index_digest(root: Path) -> str:
    """SHA-256 of the index of a folder, hexadecimal."""
    return hashlib.sha256((root / "index.csv").read_bytes()).hexdigest()


def read_still(entry: Entry) -> Still | Skip:
    """Read one still, cut to its tissue; or the reason why the node would make no result of it.

    So stills with colour flow or an elastogram drop out, by their pixels. Raises StillInvalid where a
    file is missing, unreadable, of another size, or marks no lesion in a benign or malignant still.
    """
    frame = _read_picture(entry.image, entry.image)
    pane = pane_of_picture(frame)
    if isinstance(pane, Skip):
        return pane
    x0, y0, x1, y1 = pane.box
    mask = _united(entry, (frame.shape[0], frame.shape[1]))[y0:y1, x0:x1]
    if entry.label != "normal" and not mask.any():
        raise StillInvalid(
            f'{entry.image}: it is labelled {entry.label}, but its masks "{_names(entry)}" mark nothing in '
            "the tissue",
            path=entry.image,
        )
    lesion = np.ascontiguousarray(mask) if mask.any() else None
    return Still(pane.grey, lesion, entry.label, entry.group, entry.name)


def read_stills(root: Path) -> Iterator[Still]:
    """Yield the stills of a folder in the order of its index, without those that the node would skip."""
    for entry in read_index(root):
        still = read_still(entry)
        if isinstance(still, Still):
            yield still


def _names(entry: Entry) -> str:
    return " ".join(path.name for path in entry.masks)


def _united(entry: Entry, shape: tuple[int, int]) -> NDArray[np.bool_]:
    united = np.zeros(shape, dtype=bool)
    for path in entry.masks:
        mask = _read_picture(path, entry.image)
        grey = mask if mask.ndim == 2 else mask.max(axis=2)
        if grey.shape != shape:
            raise StillInvalid(
                f"{path} is {grey.shape[1]} x {grey.shape[0]} pixels, its image {shape[1]} x {shape[0]}",
                path=path,
            )
        # White is 255 in some sets and 1 in others, and JPEG leaves grey at borders.
        united |= grey > int(grey.max()) / 2
    return united


def _read_picture(path: Path, image: Path) -> NDArray[np.uint8]:
    """Read a picture file: uint8 (H, W), or RGB (H, W, 3)."""
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise StillInvalid(f"{image}: {path} cannot be read ({error.strerror})", path=path) from error
    picture = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR) if data.size else None
    if picture is None:
        raise StillInvalid(f"{image}: {path} is not a picture", path=path)
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return np.asarray(picture, dtype=np.uint8)
