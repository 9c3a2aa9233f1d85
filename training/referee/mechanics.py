"""Tissue under a probe: mixed triangular finite elements, quadratic displacement and linear pressure.

Taylor-Hood elements (Taylor & Hood 1973, 10.1016/0045-7930(73)90027-3) do not lock however close to
incompressible tissue is. The mesh is unstructured and finer where it is told to be; it need not follow
tissue borders, because stiffness is looked up at each integration point.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import bmat
from scipy.sparse.linalg import splu
from scipy.spatial import Delaunay, cKDTree

from training.errors import RefereeUnavailable

try:
    from skfem import Basis, BilinearForm, ElementTriP1, ElementTriP2, ElementVector, MeshTri, asm
except ImportError:
    raise RefereeUnavailable("scikit-fem is missing; install emode[referee]") from None

Field = NDArray[np.float64]
AtPoints = Callable[[Field, Field], Field]
"""A function of x and z in mm, of any one shape."""

POISSON_RATIO = 0.4995

_INTEGRATION_ORDER = 4


@dataclass(frozen=True)
class Press:
    """How a probe is pressed into tissue; lengths in mm."""

    depth: float
    """How far the middle of the face moves down."""
    half_width: float
    """Half the face; tissue beside it is free. Infinite for a plate over everything."""
    tilt: float = 0.0
    """Relative change of the movement from the middle to the right end of the face."""
    bulge: float = 0.0
    """How much less a convex face moves tissue at its ends than in its middle, relative to `depth`."""
    grips: bool = False
    """Tissue sticks to the face; otherwise gel lets it slide."""
    bonded_bottom: bool = True
    """Tissue is held by the chest wall; otherwise it slides on it."""

    def movement(self, x: Field, half_width: float) -> Field:
        """Return how far the face moves down at each x, given half its width or the tissue's."""
        along = x / half_width
        return self.depth * (1.0 + self.tilt * along - self.bulge * along**2)


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles over -half_width < x < half_width, 0 < z < depth, in mm; z points away from the probe."""

    points: Field
    """(N, 2): x, z."""
    triangles: NDArray[np.int64]
    half_width: float
    depth: float


def triangulate(
    half_width: float,
    depth: float,
    size: float,
    rng: np.random.Generator,
    fine: Callable[[Field, Field], NDArray[np.bool_]] | None = None,
) -> Mesh:
    """Cover a rectangle with irregular triangles about `size` mm wide, half that where `fine` says so."""
    inner = _scattered(half_width, depth, size, rng)
    if fine is not None:
        close = _scattered(half_width, depth, size / 2, rng)
        close = close[fine(close[:, 0], close[:, 1])]
        far = inner[~fine(inner[:, 0], inner[:, 1])]
        if len(close):
            apart, _ = cKDTree(close).query(far)
            far = far[apart > 0.6 * size]
        inner = np.concatenate([far, close])
    along = np.linspace(-half_width, half_width, max(3, round(2 * half_width / size) + 1))
    down = np.linspace(0.0, depth, max(3, round(depth / size) + 1))[1:-1]
    edges = [
        *(np.stack([along, np.full_like(along, z)], axis=1) for z in (0.0, depth)),
        *(np.stack([np.full_like(down, x), down], axis=1) for x in (-half_width, half_width)),
    ]
    points = np.concatenate([*edges, inner])
    triangles = Delaunay(points).simplices.astype(np.int64)
    a, b, c = points[triangles].transpose(1, 0, 2)
    area = 0.5 * np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    # Points on one straight edge can make triangles of nothing but rounding.
    return Mesh(points, triangles[area > 1e-6 * size**2], half_width, depth)


def _scattered(half_width: float, depth: float, size: float, rng: np.random.Generator) -> Field:
    """Points of a triangular lattice, each moved a little, none close to the rim."""
    rows = np.arange(0.0, depth, size * np.sqrt(3) / 2)
    columns = np.arange(-half_width, half_width, size)
    x, z = np.meshgrid(columns, rows)
    x = x + 0.5 * size * (np.arange(len(rows)) % 2)[:, None]
    points: Field = np.stack([x, z], axis=-1).reshape(-1, 2)
    points += rng.uniform(-0.2, 0.2, points.shape) * size
    rim = 0.5 * size
    inside = (np.abs(points[:, 0]) < half_width - rim) & (points[:, 1] > rim) & (points[:, 1] < depth - rim)
    return points[inside]


def axial_displacement(
    mesh: Mesh, modulus: AtPoints, press: Press, at: Field, poisson: float = POISSON_RATIO
) -> Field:
    """Solve plane strain and return the downward displacement in mm at points (2, N).

    modulus  Young's modulus, any unit: only ratios matter.
    """
    tissue = MeshTri(np.ascontiguousarray(mesh.points.T), np.ascontiguousarray(mesh.triangles.T))
    moving = Basis(tissue, ElementVector(ElementTriP2()), intorder=_INTEGRATION_ORDER)
    pressure = moving.with_element(ElementTriP1())
    x, z = (np.asarray(c) for c in moving.global_coordinates())
    young = modulus(x, z)
    mu = young / (2 * (1 + poisson))
    # In the mixed form the pressure carries the volume change, so its part is divided by what is large.
    inverse_lame = (1 + poisson) * (1 - 2 * poisson) / (young * poisson)

    stiffness = asm(_shear, moving, mu=mu)
    divergence = asm(_divergence, moving, pressure)
    give = asm(_mass, pressure, inverse_lame=inverse_lame)
    system = bmat([[stiffness, -divergence.T], [-divergence, -give]], format="csc")

    fixed, values = _held(moving, mesh, press)
    free = np.setdiff1d(np.arange(system.shape[0]), fixed)
    known = np.zeros(system.shape[0])
    known[fixed] = values
    load = -(system @ known)[free]
    # Symmetric ordering with little pivoting: the system is nearly quasi-definite.
    factor = splu(
        system[free][:, free],
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.01,
        options={"SymmetricMode": True},
    )
    known[free] = factor.solve(load)

    corners = known[moving.nodal_dofs[1]][tissue.t]
    middles = known[moving.facet_dofs[1]][tissue.t2f]
    return _interpolate(tissue.p, tissue.t, np.concatenate([corners, middles]), at)


def _interpolate(nodes: Field, triangles: NDArray[np.int64], values: Field, at: Field) -> Field:
    """Read a quadratic field at points (2, N).

    nodes (2, n), triangles (3, m), values (6, m): at corners, then between corners 0-1, 1-2, 0-2.
    """
    a, b, c = (nodes[:, corner] for corner in triangles)
    nearby = cKDTree(((a + b + c) / 3).T).query(at.T, k=12)[1].T
    best, weights = nearby[0], np.full((3, at.shape[1]), -np.inf)
    for candidate in nearby:
        # Barycentric weights; the triangle that holds the point has none below zero.
        p, q, r = a[:, candidate], b[:, candidate], c[:, candidate]
        area = _cross(q - p, r - p)
        shares = np.stack([_cross(q - at, r - at), _cross(r - at, p - at), _cross(p - at, q - at)]) / area
        better = shares.min(axis=0) > weights.min(axis=0)
        best, weights = np.where(better, candidate, best), np.where(better, shares, weights)
    l0, l1, l2 = weights
    shape = [*(one * (2 * one - 1) for one in weights), 4 * l0 * l1, 4 * l1 * l2, 4 * l0 * l2]
    found: Field = (np.stack(shape) * values[:, best]).sum(axis=0)
    return found


def _cross(a: Field, b: Field) -> Field:
    found: Field = a[0] * b[1] - a[1] * b[0]
    return found


@BilinearForm
def _shear(u, v, w):  # type: ignore[no-untyped-def]
    off = 0.5 * (u.grad[0, 1] + u.grad[1, 0]) * (v.grad[0, 1] + v.grad[1, 0])
    return 2 * w.mu * (u.grad[0, 0] * v.grad[0, 0] + u.grad[1, 1] * v.grad[1, 1] + off)


@BilinearForm
def _divergence(u, q, _):  # type: ignore[no-untyped-def]
    return (u.grad[0, 0] + u.grad[1, 1]) * q


@BilinearForm
def _mass(p, q, w):  # type: ignore[no-untyped-def]
    return w.inverse_lame * p * q


def _held(basis: Basis, mesh: Mesh, press: Press) -> tuple[NDArray[np.int64], Field]:
    """Degrees of freedom whose displacement is given, and what it is."""
    x, z = basis.doflocs
    axial = np.zeros(basis.N, dtype=bool)
    axial[basis.nodal_dofs[1]] = axial[basis.facet_dofs[1]] = True
    near = 1e-9 * mesh.depth
    half_width = min(press.half_width, mesh.half_width)
    face = (z < near) & (np.abs(x) <= half_width + near)
    bottom = z > mesh.depth - near
    given = np.full(basis.N, np.nan)
    given[face & axial] = press.movement(x[face & axial], half_width)
    given[bottom & axial] = 0.0
    if press.grips:
        given[face & ~axial] = 0.0
    if press.bonded_bottom:
        given[bottom & ~axial] = 0.0
    elif not press.grips:
        # Nothing else keeps the tissue from sliding away sideways.
        ground = np.flatnonzero(bottom & ~axial)
        given[ground[np.argmin(np.abs(x[ground]))]] = 0.0
    fixed = np.flatnonzero(np.isfinite(given))
    return fixed, given[fixed]
