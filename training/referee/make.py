"""One pair of the second simulator: a function of its seed alone."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, uniform_filter

from training.pairs.folder import REFEREE, Maker
from training.pairs.pair import Pair, strain_index
from training.referee.estimator import SAMPLE_MM, draw_estimator, estimate_strain
from training.referee.layout import STEP_MM, Layout, draw_layout
from training.referee.mechanics import Press, axial_displacement, triangulate
from training.referee.scanner import Scanner, draw_scanner, picture

Field = NDArray[np.float64]

MAKER = Maker(REFEREE, 1, simulated=True)

ELEMENT_MM = 1.3
"""Width of triangles; half that in and around the lesion."""


def make_pair(seed: int) -> Pair:
    """Make one pair; info has seed, group, kind and, with a lesion, what it is as stiff as and how much."""
    streams = [np.random.default_rng([seed, part]) for part in range(4)]
    layout = draw_layout(streams[0])
    scanner = draw_scanner(streams[1])
    bmode = picture(layout, scanner, streams[2])
    linear = measure(layout, scanner, streams[3], (bmode.shape[0], bmode.shape[1]))
    mask = _at_pixels(layout, scanner, layout.mask.astype(np.float64), bmode.shape) > 0.5
    info = {"seed": seed, "group": f"{REFEREE}-{seed}", **layout.info}
    return Pair(bmode, strain_index(linear), mask if mask.any() else None, scanner.spacing, info)


def draw_press(rng: np.random.Generator, layout: Layout) -> Press:
    """Draw how the probe presses; its housing is somewhat wider than the image."""
    return Press(
        depth=layout.z[-1] * rng.uniform(0.008, 0.02),
        half_width=layout.width_mm / 2 + rng.uniform(2.0, 6.0),
        tilt=rng.normal(0.0, 0.12),
        bulge=rng.uniform(0.0, 0.2),
        grips=rng.random() < 0.4,
    )


def measure(
    layout: Layout, scanner: Scanner, rng: np.random.Generator, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Press a layout and measure its strain on the pixels of the picture, linear."""
    half, bottom = float(-layout.x[0]), float(layout.z[-1])
    near = np.asarray(distance_transform_edt(~layout.mask)) * STEP_MM < 2.0

    def fine(x: Field, z: Field) -> NDArray[np.bool_]:
        return layout.at(near.astype(np.float64), x, z) > 0.5

    mesh = triangulate(half, bottom, ELEMENT_MM, rng, fine if layout.mask.any() else None)
    # Triangles cannot follow septa; what they look up is the mean over as much as a point stands for.
    stiffness = uniform_filter(layout.stiffness, 3)
    rows, columns = int(layout.depth_mm / SAMPLE_MM) + 1, int(layout.width_mm / SAMPLE_MM) + 1
    z = np.minimum((np.arange(rows) + 0.5) * SAMPLE_MM, bottom)
    x = (np.arange(columns) + 0.5) * SAMPLE_MM - layout.width_mm / 2
    grid_x, grid_z = np.meshgrid(x, z)
    down = axial_displacement(
        mesh,
        lambda px, pz: layout.at(stiffness, px, pz),
        draw_press(rng, layout),
        np.stack([grid_x.ravel(), grid_z.ravel()]),
    ).reshape(rows, columns)
    # Where there is no echo, as in a cyst, there is nothing to follow.
    quality = 10 ** (np.minimum(layout.at(layout.echo_db, grid_x, grid_z), 0.0) / 30)
    strain = estimate_strain(down, quality, draw_estimator(rng), rng)
    return _resampled(strain.astype(np.float32), scanner.spacing / SAMPLE_MM, shape)


def _resampled(field: NDArray[np.float32], step: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Read a field of samples on pixels `step` samples wide; both begin at the same corner."""
    rows, columns = ((np.arange(n, dtype=np.float32) + 0.5) * np.float32(step) - 0.5 for n in shape)
    map_x, map_z = np.meshgrid(columns, rows)
    found = cv2.remap(field, map_x, map_z, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, dtype=np.float32)


def _at_pixels(layout: Layout, scanner: Scanner, field: Field, shape: tuple[int, ...]) -> Field:
    """Look a field of the layout up at the middle of each pixel."""
    z = (np.arange(shape[0]) + 0.5) * scanner.spacing
    x = (np.arange(shape[1]) + 0.5) * scanner.spacing - layout.width_mm / 2
    return layout.at(field, *np.meshgrid(x, z))
