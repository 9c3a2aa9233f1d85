"""The strain that a still has on average over its draws: what one could say who knew label and mask."""

import numpy as np
from numpy.typing import NDArray

from training.layouts.evidence import evidence_of
from training.layouts.pairs import MAX_DRAWS, draw_depth_mm, draw_pair
from training.pairs.stills import Still


def expected_strain(still: Still, draws: int) -> NDArray[np.float32]:
    """Mean strain index (H, W) of so many draws, the last that there are: nobody trains on those."""
    evidence = evidence_of(still, draw_depth_mm(still))
    total = np.zeros(still.frame.shape)
    for draw in range(MAX_DRAWS - draws, MAX_DRAWS):
        total += draw_pair(still, evidence, draw).strain
    return np.asarray(total / draws, dtype=np.float32)
