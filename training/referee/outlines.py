"""Outlines of lesions as filled shapes: superellipses, unions of discs, angular polygons, stars."""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Field = NDArray[np.float64]

_SUBPIXEL_BITS = 4


def draw_outline(
    form: str, rng: np.random.Generator, x: Field, z: Field, width: float, height: float
) -> tuple[Mask, Mask]:
    """Draw one shape about the origin, in the unit of x and z (H, W), an even grid.

    Returns the whole shape, and its body: the shape without spicules.
    """
    turn = rng.uniform(-0.35, 0.35)
    u = (x * np.cos(turn) + z * np.sin(turn)) / (width / 2)
    v = (-x * np.sin(turn) + z * np.cos(turn)) / (height / 2)
    if form == "superellipse":
        power = rng.uniform(1.8, 3.2)
        body = np.abs(u) ** power + np.abs(v) ** power < 1
    elif form == "lobulated":
        body = _discs(rng, u, v)
    elif form == "polygon":
        body = _polygon(u, v, *_corners(rng, int(rng.integers(7, 13)), 0.65))
    elif form == "star":
        body = _polygon(u, v, *_corners(rng, int(rng.integers(9, 16)), 0.75), scale=0.85)
        return body | _spicules(rng, u, v), body
    else:
        raise ValueError(form)
    return body, body


def _discs(rng: np.random.Generator, u: Field, v: Field) -> Mask:
    """Three to five overlapping lobes."""
    n = int(rng.integers(3, 6))
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.uniform(0, 2 * np.pi)
    body = u * u + v * v < 0.6**2
    for angle in angles + rng.uniform(-0.3, 0.3, n):
        radius = rng.uniform(0.42, 0.58)
        away = 1.0 - radius
        body |= (u - away * np.cos(angle)) ** 2 + (v - away * np.sin(angle)) ** 2 < radius**2
    return body


def _corners(rng: np.random.Generator, n: int, shortest: float) -> tuple[Field, Field]:
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.uniform(-0.35, 0.35, n) * 2 * np.pi / n
    radii = rng.uniform(shortest, 1.05, n)
    return radii * np.cos(angles), radii * np.sin(angles)


def _polygon(u: Field, v: Field, corner_u: Field, corner_v: Field, scale: float = 1.0) -> Mask:
    """Fill a polygon given in (u, v), which may be turned against the grid."""
    corners = np.stack([corner_u, corner_v], axis=1) * scale
    on_grid = _to_grid(u, v, corners)
    canvas = np.zeros(u.shape, dtype=np.uint8)
    cv2.fillPoly(canvas, [on_grid], 1, shift=_SUBPIXEL_BITS)
    return canvas.astype(bool)


def _spicules(rng: np.random.Generator, u: Field, v: Field) -> Mask:
    """Tapered lines that radiate from inside the body."""
    n = int(rng.integers(9, 22))
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False) + rng.uniform(-0.25, 0.25, n)
    canvas = np.zeros(u.shape, dtype=np.uint8)
    for angle in angles:
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        root = rng.uniform(0.06, 0.14)
        tip = along * rng.uniform(1.0, 1.5) + across * rng.uniform(-0.12, 0.12)
        triangle = np.stack([0.5 * along - across * root, 0.5 * along + across * root, tip])
        cv2.fillPoly(canvas, [_to_grid(u, v, triangle)], 1, shift=_SUBPIXEL_BITS)
    return canvas.astype(bool)


def _to_grid(u: Field, v: Field, points: Field) -> NDArray[np.int32]:
    """Column and row of points in (u, v), which is affine on the grid; in fixed point, as OpenCV wants."""
    step = np.array([[u[0, 1] - u[0, 0], u[1, 0] - u[0, 0]], [v[0, 1] - v[0, 0], v[1, 0] - v[0, 0]]])
    at = np.linalg.solve(step, (points - [u[0, 0], v[0, 0]]).T).T
    found: NDArray[np.int32] = np.round(at * 2**_SUBPIXEL_BITS).astype(np.int32)
    return found
