"""Strain as a scanner would measure it: pressed by hand, estimated over a few millimetres, noisy."""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.simulator.elasticity import Compression, axial_strain
from training.simulator.noise import Field, random_field, smooth

FEM_ROWS = 80
"""Finite elements over the depth of the view."""

_WIDEST_FACE = 1.2
"""Of a linear probe, relative to its image; the breast is wider, and its skin beside the probe is free."""
_GRIP_SHARE = 0.3
"""How often the skin sticks to the probe instead of sliding in gel."""
_MOST_BEHIND_MM = 8.0
"""Tissue between the lower border of the view and the chest wall, which holds it."""


def draw_compression(rng: np.random.Generator, view_share: float) -> Compression:
    """Draw how a hand presses; `view_share` is the width of the view relative to the tissue's."""
    return Compression(
        mean=0.01,
        tilt=float(rng.normal(0, 0.08)),
        curvature=float(abs(rng.normal(0, 0.06))),
        face=min(1.0, view_share * float(rng.uniform(1.0, _WIDEST_FACE))),
        grips=bool(rng.random() < _GRIP_SHARE),
        held=True,
    )


def measured_strain(
    rng: np.random.Generator,
    stiffness: Field,
    spacing_mm: float,
    margin: int,
    layered: NDArray[np.bool_] | None = None,
) -> Field:
    """Strain as a scanner would estimate it in the view, over its median: (rows, view columns).

    stiffness  Young's modulus, any unit, (rows, columns) wider than the view by `margin` on both sides.
    layered    fluid that shows the blue-green-red artefact, of the same shape.
    """
    h, (rows, columns) = spacing_mm, stiffness.shape
    fem_columns = round(columns * FEM_ROWS / rows)
    log_modulus = cv2.resize(np.log(stiffness), (fem_columns, FEM_ROWS), interpolation=cv2.INTER_AREA)
    dx, dy = columns * h / fem_columns, rows * h / FEM_ROWS
    behind = round(rng.uniform(0.0, _MOST_BEHIND_MM) / dy)
    press = draw_compression(rng, 1 - 2 * margin / columns)
    deeper = np.pad(log_modulus, [(0, behind), (0, 0)], mode="edge")
    strain = axial_strain(np.exp(deeper), dx, dy, press)[:FEM_ROWS]
    # Least-squares strain estimators see 2 to 3 mm of tissue at a time.
    resolution_mm = rng.uniform(1.8, 2.8)
    sigma = resolution_mm / 2.355
    strain = smooth(strain, sigma / dy, 0.7 * sigma / dx)
    strain = np.asarray(cv2.resize(strain, (columns, rows), interpolation=cv2.INTER_CUBIC))
    if layered is not None:
        strain = _layer_cyst(strain, layered)
    # Estimator noise grows with depth, as the echo's signal-to-noise ratio falls.
    depth = np.linspace(0, 1, rows)[:, None]
    noise = random_field(rng, strain.shape, 0.9 / h, 1.1 / h)
    strain = strain * (1 + noise * rng.uniform(0.01, 0.06) * (0.5 + depth))
    view = strain[:, margin : columns - margin]
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
