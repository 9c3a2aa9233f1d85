"""Simulated pairs of B-mode and strain: the data set is its list of seeds."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.pairs.folder import Maker
from training.pairs.pair import Pair, strain_index
from training.simulator.anatomy import ROWS, Phantom, draw_phantom
from training.simulator.annotations import annotate
from training.simulator.elasticity import Compression, axial_strain
from training.simulator.noise import Field, random_field, smooth
from training.simulator.ultrasound import draw_look, render_bmode

SIMULATOR_VERSION = 1
"""Raise when a seed would give another pair than before: old folders are then refused."""

SIMULATOR = Maker("simulator", SIMULATOR_VERSION, simulated=True)

TRAINING_SEEDS = range(1_000_000)
VALIDATION_SEEDS = range(1_000_000, 2_000_000)
TEST_SEEDS = range(2_000_000, 3_000_000)
"""Disjoint by construction; `TEST_SEEDS` is read by `evaluate` and by tests, never by `fit`."""

FEM_ROWS = 80

_TISSUE, _SCANNER, _PRESS = 1, 2, 3
# Separate streams of random numbers, so that more looks of one phantom never change its strain.


def simulate_pair(seed: int, look: int = 0) -> Pair:
    """Make the pair of one seed; `look` > 0 gives other scanners' B-mode of the same strain."""
    phantom = draw_phantom(np.random.default_rng([SIMULATOR_VERSION, seed, _TISSUE]))
    linear = _measured_strain(np.random.default_rng([SIMULATOR_VERSION, seed, _PRESS]), phantom)
    rng = np.random.default_rng([SIMULATOR_VERSION, seed, _SCANNER, look])
    bmode = render_bmode(rng, phantom, draw_look(rng))
    annotate(rng, bmode, phantom)
    view = slice(phantom.margin, phantom.stiffness.shape[1] - phantom.margin)
    lesion = phantom.lesion
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


def _measured_strain(rng: np.random.Generator, phantom: Phantom) -> Field:
    """Strain as a scanner would estimate it in the view, over its median: (ROWS, view columns)."""
    h, columns = phantom.spacing_mm, phantom.stiffness.shape[1]
    fem_columns = round(columns * FEM_ROWS / ROWS)
    log_modulus = cv2.resize(np.log(phantom.stiffness), (fem_columns, FEM_ROWS), interpolation=cv2.INTER_AREA)
    press = Compression(mean=0.01, tilt=float(rng.normal(0, 0.08)), curvature=float(abs(rng.normal(0, 0.06))))
    dx, dy = columns * h / fem_columns, ROWS * h / FEM_ROWS
    strain = axial_strain(np.exp(log_modulus), dx, dy, press)
    # Least-squares strain estimators see 2 to 3 mm of tissue at a time.
    resolution_mm = rng.uniform(1.8, 2.8)
    sigma = resolution_mm / 2.355
    strain = smooth(strain, sigma / dy, 0.7 * sigma / dx)
    strain = np.asarray(cv2.resize(strain, (columns, ROWS), interpolation=cv2.INTER_CUBIC))
    lesion = phantom.lesion
    if lesion is not None and lesion.bgr:
        strain = _layer_cyst(strain, lesion.mask)
    # Estimator noise grows with depth, as the echo's signal-to-noise ratio falls.
    rows = np.linspace(0, 1, ROWS)[:, None]
    noise = random_field(rng, strain.shape, 0.9 / h, 1.1 / h)
    strain = strain * (1 + noise * rng.uniform(0.01, 0.06) * (0.5 + rows))
    view = strain[:, phantom.margin : columns - phantom.margin]
    return np.asarray(view / max(float(np.median(view)), 1e-9))


def _layer_cyst(strain: Field, mask: NDArray[np.bool_]) -> Field:
    """The blue-green-red artefact: fluid decorrelates, and the map shows layers from hard to soft."""
    if not mask.any():
        return strain
    rows = np.flatnonzero(mask.any(axis=1))
    ramp = np.clip((np.arange(len(strain)) - rows[0]) / max(1, rows[-1] - rows[0]), 0, 1)[:, None]
    soft = smooth(mask.astype(float), 3.0, 3.0)
    layered = float(np.median(strain)) * (0.2 + 1.7 * ramp)
    return np.asarray(strain + soft * (layered - strain))
