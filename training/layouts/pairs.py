"""Pairs of real B-mode and drawn strain: the data set is its stills and its list of draws."""

import hashlib
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from dicom_node.dicom.skip import Skip
from training.errors import StillInvalid
from training.layouts.evidence import Evidence, evidence_of
from training.layouts.layout import draw_layout
from training.pairs.folder import Maker
from training.pairs.pair import Pair, strain_index
from training.pairs.stills import Entry, Still, read_index, read_still
from training.simulator.measurement import measured_strain

LAYOUTS_VERSION = 3
"""Raise when a still and a draw would give another pair than before: old folders are then refused."""

LAYOUTS = Maker("layouts", LAYOUTS_VERSION, simulated=True)

MAX_DRAWS = 1000
"""Draws of one still, from 0: the number of a pair is 1000 x place in the index + draw."""

_SCALE, _TISSUE, _PRESS = 1, 2, 3
# Separate streams of random numbers, so that the scale of a still is the same in all its draws.


def pair_number(entry: Entry, draw: int) -> int:
    """Return the number of one draw of one still; ValueError if the draw is out of range."""
    if not 0 <= draw < MAX_DRAWS:
        raise ValueError(f"draw {draw} is not between 0 and {MAX_DRAWS - 1}")
    return entry.number * MAX_DRAWS + draw


def make_pair(number: int, root: Path) -> Pair:
    """Make the pair of a number from a folder of stills; see `pair_number`."""
    still, evidence = _measured(root, number // MAX_DRAWS)
    return draw_pair(still, evidence, number % MAX_DRAWS)


def draw_pair(still: Still, evidence: Evidence, draw: int) -> Pair:
    """Make one draw of a still: its frame and mask as they are, and a strain that could lie beneath it."""
    name = _number_of(still.name)
    layout = draw_layout(np.random.default_rng([LAYOUTS_VERSION, name, draw, _TISSUE]), evidence, still.label)
    rng = np.random.default_rng([LAYOUTS_VERSION, name, draw, _PRESS])
    linear = measured_strain(rng, layout.stiffness, layout.spacing_mm, layout.margin, layout.layered)
    height, width = still.frame.shape
    interpolation = cv2.INTER_AREA if height < len(linear) else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(linear, (width, height), interpolation=interpolation), dtype=np.float64)
    info: dict[str, str | float | bool] = {
        "name": still.name, "label": still.label, "group": still.group, "draw": draw, "kind": "none",
    }  # fmt: skip
    if layout.lesion is not None:
        info.update(
            kind=layout.lesion.kind,
            stiffness_kind=layout.lesion.stiffness_kind,
            stiffness=round(layout.lesion.stiffness, 3),
            bgr=layout.lesion.bgr,
        )
    spacing_mm = evidence.spacing_mm * len(linear) / height
    return Pair(still.frame, strain_index(resized), still.mask, spacing_mm, info)


def draw_depth_mm(still: Still) -> float:
    """Draw the depth of a still by its name: 30 to 50 mm, as far as its width stays in 25 to 60 mm."""
    rng = np.random.default_rng([LAYOUTS_VERSION, _number_of(still.name), _SCALE])
    height, width = still.frame.shape
    # Where both cannot be had, as in a wide strip, the width decides: probes are 25 to 60 mm wide.
    low, high = (float(np.clip(depth, 25 * height / width, 60 * height / width)) for depth in (30.0, 50.0))
    return float(rng.uniform(low, high))


@lru_cache(maxsize=1)
def _measured(root: Path, place: int) -> tuple[Still, Evidence]:
    """The draws of a still follow each other: it is read and measured once."""
    entry = _entries(root)[place]
    still = read_still(entry)
    if isinstance(still, Skip):
        raise StillInvalid(f"{entry.image}: {still.sentence}", path=entry.image)
    return still, evidence_of(still, draw_depth_mm(still))


@lru_cache(maxsize=1)
def _entries(root: Path) -> tuple[Entry, ...]:
    return read_index(root)


def _number_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
