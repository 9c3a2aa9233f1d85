"""Axial strain of compressed soft tissue: plane-strain finite elements on a regular grid.

Four-node quadrilaterals with selective reduced integration (Hughes, The Finite Element
Method, 4.4): the volumetric part is integrated at one point, or near-incompressible
tissue locks and every inclusion looks stiffer than it is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

Field = NDArray[np.float64]

POISSON_RATIO = 0.495
"""Soft tissue is nearly incompressible; closer to 0.5 only costs condition number."""

_GAUSS = 1.0 / np.sqrt(3.0)
# Corner order: (left, top), (right, top), (right, bottom), (left, bottom); y points down.
_XI = np.array([-1.0, 1.0, 1.0, -1.0])
_ETA = np.array([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Compression:
    """How the probe presses, and what holds the tissue against it.

    As it is by default, a plate over everything that slides at both ends, strain is the same at every depth
    of even tissue. Under a face with free skin beside it the pressure spreads, and strain falls with depth.
    """

    mean: float = 0.01
    """Displacement of the middle of the face, relative to the depth."""
    tilt: float = 0.0
    """Relative change of the displacement from the centre to the right end of the face."""
    curvature: float = 0.0
    """Relative loss of displacement at both ends, as under a convex footprint."""
    face: float = 1.0
    """Width of the probe's face, relative to the tissue's; skin beside it is free."""
    grips: bool = False
    """Skin sticks to the face; otherwise gel lets it slide."""
    held: bool = False
    """The chest wall holds the tissue; otherwise it slides there."""

    def displacement(self, n_columns: int, depth: float) -> Field:
        """Return the downward displacement of the top nodes, (n_columns + 1,); NaN where skin is free."""
        x = np.linspace(-1.0, 1.0, n_columns + 1) / self.face
        moved = self.mean * depth * (1.0 + self.tilt * x - self.curvature * x * x)
        return np.where(np.abs(x) <= 1.0 + 1e-9, moved, np.nan)


def _gradient_matrix(xi: float, eta: float, dx: float, dy: float) -> Field:
    """Strain-displacement matrix (3, 8) of one element at one point."""
    n_x = _XI * (1 + eta * _ETA) / 4 * (2 / dx)
    n_y = _ETA * (1 + xi * _XI) / 4 * (2 / dy)
    b = np.zeros((3, 8))
    b[0, 0::2] = n_x
    b[1, 1::2] = n_y
    b[2, 0::2] = n_y
    b[2, 1::2] = n_x
    return b


def element_stiffness(dx: float, dy: float) -> tuple[Field, Field]:
    """Element matrices (8, 8) for unit shear modulus and for unit first Lamé constant."""
    shear = np.zeros((8, 8))
    for xi in (-_GAUSS, _GAUSS):
        for eta in (-_GAUSS, _GAUSS):
            b = _gradient_matrix(xi, eta, dx, dy)
            shear += b.T @ np.diag([2.0, 2.0, 1.0]) @ b * (dx * dy / 4)
    centre = _gradient_matrix(0.0, 0.0, dx, dy)
    divergence = centre[0] + centre[1]
    return shear, np.outer(divergence, divergence) * (dx * dy)


def _element_dofs(rows: int, columns: int) -> NDArray[np.int64]:
    """Degrees of freedom (rows * columns, 8); nodes run down each column first, for a narrow band."""
    j, i = np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij")
    corner = j * (rows + 1) + i
    below = rows + 1
    nodes = np.stack([corner, corner + below, corner + below + 1, corner + 1], axis=-1)
    dofs: NDArray[np.int64] = np.stack([2 * nodes, 2 * nodes + 1], axis=-1).reshape(-1, 8)
    return dofs


def displacement_field(
    modulus: Field, dx: float, dy: float, compression: Compression, poisson: float = POISSON_RATIO
) -> tuple[Field, Field]:
    """Solve for the lateral and axial displacement of the nodes, each (rows + 1, columns + 1).

    modulus  Young's modulus per element (rows, columns), any unit: only ratios matter.
    The bottom does not move down, the sides are free; `compression` says what else is held.
    """
    rows, columns = modulus.shape
    mu = modulus / (2 * (1 + poisson))
    lame = modulus * poisson / ((1 + poisson) * (1 - 2 * poisson))
    k_mu, k_lame = element_stiffness(dx, dy)
    by_column = mu.T.reshape(-1, 1, 1), lame.T.reshape(-1, 1, 1)
    values = by_column[0] * k_mu + by_column[1] * k_lame
    dofs = _element_dofs(rows, columns)
    n = 2 * (rows + 1) * (columns + 1)

    top = np.arange(columns + 1) * (rows + 1)
    moved = compression.displacement(columns, rows * dy)
    face, bottom = top[np.isfinite(moved)], top + rows
    fixed = np.zeros(n, dtype=bool)
    fixed[2 * face + 1] = fixed[2 * bottom + 1] = True
    fixed[2 * face] = compression.grips
    fixed[2 * bottom] = compression.held
    # Where nothing else keeps the tissue from sliding away sideways, its middle does.
    fixed[2 * bottom[columns // 2]] |= not compression.grips
    u = np.zeros(n)
    u[2 * face + 1] = moved[np.isfinite(moved)]

    i, j = np.broadcast_to(dofs[:, :, None], values.shape), np.broadcast_to(dofs[:, None, :], values.shape)
    load = -np.bincount(i.ravel(), (values * u[j]).ravel(), minlength=n)
    load[fixed] = u[fixed]
    keep = (~fixed[i]) & (~fixed[j]) & (j >= i)
    band = 2 * (rows + 2) + 1
    # Upper banded storage of LAPACK: a[band + i - j, j] = K[i, j].
    flat = (band + i[keep] - j[keep]) * n + j[keep]
    banded = np.bincount(flat, values[keep], minlength=(band + 1) * n).reshape(band + 1, n)
    banded[band, fixed] = 1.0
    solution = solveh_banded(banded, load, overwrite_ab=True, overwrite_b=True, check_finite=False)
    nodes = solution.reshape(columns + 1, rows + 1, 2)
    return nodes[:, :, 0].T, nodes[:, :, 1].T


def axial_strain(
    modulus: Field, dx: float, dy: float, compression: Compression, poisson: float = POISSON_RATIO
) -> Field:
    """Compressive axial strain at the element centres, shape of modulus, positive when compressed."""
    _, down = displacement_field(modulus, dx, dy, compression, poisson)
    shortening = down[:-1] - down[1:]
    strain: Field = (shortening[:, :-1] + shortening[:, 1:]) / (2 * dy)
    return strain
