"""One B-mode frame and the strain beneath it: what everything in training is made of."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Pair:
    """One B-mode frame and the strain beneath it, on the same pixels."""

    bmode: NDArray[np.uint8]
    """(H, W)."""
    strain: NDArray[np.float32]
    """(H, W) strain index in [0, 1], see `strain_index`; 1 is soft."""
    mask: NDArray[np.bool_] | None
    """(H, W), the lesion as B-mode shows it; None without a lesion."""
    spacing_mm: float
    """One pixel, the same in both directions; 0 if unknown."""
    info: dict[str, Any]
    """Where it comes from: `seed` or file, `kind` or `label`, and `group`, which no split may part."""


def strain_index(linear: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Map strain to [0, 1] per frame: the median becomes 0.5, twice the median and more 1."""
    median = max(float(np.median(linear)), 1e-9)
    return np.asarray(np.clip(linear / (2 * median), 0.0, 1.0), dtype=np.float32)
