"""Simulated pairs of B-mode and strain: the data set is its list of seeds."""

import numpy as np

from training.pairs.folder import Maker
from training.pairs.pair import Pair, strain_index
from training.simulator.anatomy import Phantom, draw_phantom
from training.simulator.annotations import annotate
from training.simulator.measurement import measured_strain
from training.simulator.ultrasound import draw_look, render_bmode

SIMULATOR_VERSION = 2
"""Raise when a seed would give another pair than before: old folders are then refused."""

SIMULATOR = Maker("simulator", SIMULATOR_VERSION, simulated=True)

TRAINING_SEEDS = range(1_000_000)
VALIDATION_SEEDS = range(1_000_000, 2_000_000)
TEST_SEEDS = range(2_000_000, 3_000_000)
"""Disjoint by construction; `TEST_SEEDS` is read by `evaluate` and by tests, never by `fit`."""

_TISSUE, _SCANNER, _PRESS = 1, 2, 3
# Separate streams of random numbers, so that more looks of one phantom never change its strain.


def phantom_of(seed: int) -> Phantom:
    """Draw the tissue of one seed."""
    return draw_phantom(np.random.default_rng([SIMULATOR_VERSION, seed, _TISSUE]))


def simulate_pair(seed: int, look: int = 0) -> Pair:
    """Make the pair of one seed; `look` > 0 gives other scanners' B-mode of the same strain."""
    phantom = phantom_of(seed)
    lesion = phantom.lesion
    bgr = lesion.mask if lesion is not None and lesion.bgr else None
    rng = np.random.default_rng([SIMULATOR_VERSION, seed, _PRESS])
    linear = measured_strain(rng, phantom.stiffness, phantom.spacing_mm, phantom.margin, bgr)
    rng = np.random.default_rng([SIMULATOR_VERSION, seed, _SCANNER, look])
    bmode = render_bmode(rng, phantom, draw_look(rng))
    annotate(rng, bmode, phantom)
    view = slice(phantom.margin, phantom.stiffness.shape[1] - phantom.margin)
    mask = None if lesion is None else np.ascontiguousarray(lesion.mask[:, view])
    if mask is not None and not mask.any():
        mask = None
    info: dict[str, str | float | bool] = {"seed": seed, "look": look, "kind": "none"}
    if lesion is not None:
        info.update(
            kind=lesion.look_kind,
            stiffness_kind=lesion.stiffness_kind,
            stiffness=round(lesion.stiffness, 3),
            bgr=lesion.bgr,
        )
    return Pair(bmode, strain_index(linear), mask, phantom.spacing_mm, info)
