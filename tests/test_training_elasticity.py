"""The finite elements against theory and against another program."""

import numpy as np
import pytest
from skfem import Basis, BilinearForm, ElementQuad1, ElementVector, MeshQuad, asm, condense, solve

from training.simulator.elasticity import Compression, axial_strain, displacement_field


@pytest.mark.parametrize("k", [2, 5, 10])
def test_circular_inclusion(k):
    """An inclusion k times stiffer, in plane strain, is strained 2 / (1 + k) of what is around it."""
    n, radius = 96, 0.1
    y, x = (np.mgrid[: 4 * n, : 4 * n] + 0.5) / (4 * n) - 0.5
    inside = (x * x + y * y < radius**2).astype(float).reshape(n, 4, n, 4).mean(axis=(1, 3))
    strain = axial_strain(1 + (k - 1) * inside, 1 / n, 1 / n, Compression(mean=0.01))
    y, x = (np.mgrid[:n, :n] + 0.5) / n - 0.5
    core = x * x + y * y < (0.7 * radius) ** 2
    assert strain[core].mean() / 0.01 == pytest.approx(2 / (1 + k), rel=0.02)


def test_even_tissue_is_evenly_strained():
    strain = axial_strain(np.full((12, 20), 3.0), 0.5, 0.4, Compression(mean=0.02))
    np.testing.assert_allclose(strain, 0.02, rtol=1e-9)


def test_pressure_spreads_under_a_finite_face():
    """With free skin beside the probe, strain falls with depth, and beyond the face."""
    even = np.full((40, 60), 3.0)
    strain = axial_strain(even, 0.5, 0.5, Compression(face=0.5, held=True))
    middle, beside = strain[:, 28:32].mean(axis=1), strain[:, :5].mean(axis=1)
    assert middle[5] > 1.3 * middle[-5]
    assert beside[:20].mean() < 0.3 * middle[:20].mean()
    moved = Compression(mean=0.01, face=0.5).displacement(8, 100.0)
    np.testing.assert_allclose(moved, [np.nan, np.nan, 1, 1, 1, 1, 1, np.nan, np.nan])


@pytest.mark.parametrize(
    "held",
    [{}, {"grips": True}, {"held": True}, {"face": 4 / 7, "grips": True, "held": True}, {"face": 4 / 7}],
    ids=["slides", "grips", "held", "face-grips-held", "face"],
)
def test_agrees_with_scikit_fem(held):
    """Same mesh, moduli and integration rule in an independent program: same displacement."""
    rows, columns, poisson = 10, 14, 0.45
    modulus = np.exp(np.random.default_rng(0).normal(size=(rows, columns)))
    press = Compression(mean=0.01, tilt=0.2, curvature=0.1, **held)
    mesh = MeshQuad.init_tensor(np.linspace(0, columns, columns + 1), np.linspace(0, rows, rows + 1))
    centres = mesh.p[:, mesh.t].mean(axis=1)
    young = modulus[centres[1].astype(int), centres[0].astype(int)][:, None]
    mu, lame = young / (2 * (1 + poisson)), young * poisson / ((1 + poisson) * (1 - 2 * poisson))

    @BilinearForm
    def shear(u, v, w):
        def symmetric(g):
            return 0.5 * (g + g.transpose(1, 0, 2, 3))

        return 2 * w.mu * np.einsum("ij...,ij...", symmetric(u.grad), symmetric(v.grad))

    @BilinearForm
    def volume(u, v, w):
        return w.lame * (u.grad[0, 0] + u.grad[1, 1]) * (v.grad[0, 0] + v.grad[1, 1])

    element = ElementVector(ElementQuad1())
    full = Basis(mesh, element, intorder=3)
    centre = np.array([[0.5], [0.5]]), np.array([1.0])  # one point; intorder=1 would still take four
    reduced = Basis(mesh, element, quadrature=centre)
    stiffness = asm(shear, full, mu=np.broadcast_to(mu, full.dx.shape)) + asm(
        volume, reduced, lame=np.broadcast_to(lame, reduced.dx.shape)
    )
    x, y = mesh.p
    lateral, axial = full.nodal_dofs
    bottom = y == rows
    face = (y == 0) & (np.abs(x - columns / 2) <= press.face * columns / 2)
    nothing = np.zeros(len(x), dtype=bool)
    still = (face if press.grips else nothing) | (bottom if press.held else nothing)
    if not still.any():
        still = bottom & (x == columns // 2)
    u = np.zeros(full.N)
    u[axial[face]] = press.displacement(columns, rows)[x[face].astype(int)]
    u = solve(*condense(stiffness, x=u, D=np.concatenate([axial[face], axial[bottom], lateral[still]])))
    ours = displacement_field(modulus, 1.0, 1.0, press, poisson)
    at = y.astype(int), x.astype(int)
    np.testing.assert_allclose(ours[0][at], u[lateral], atol=1e-9)
    np.testing.assert_allclose(ours[1][at], u[axial], atol=1e-9)


def test_uneven_press_is_as_described():
    moved = Compression(mean=0.01, tilt=0.1, curvature=0.2).displacement(4, 100.0)
    np.testing.assert_allclose(moved, [0.7, 0.9, 1.0, 1.0, 0.9], atol=0.11)
    assert moved[-1] > moved[0]
