"""Where scores are taken: a lesion's box, the ring around it, its core, and tissue to compare it with."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice]

RING_MM = 2.5
"""Width of the ring around a lesion: the 2 to 3 mm in which stiffness may pass the B-mode border."""

GAP_MM = 4.0
"""Tissue nearer to a lesion than this is no reference: its strain is disturbed by the lesion."""

TYPICAL_RADIUS_MM = 7.0
"""Taken as the lesion's radius where the size of a pixel is unknown, so that ring and gap keep
their share of a lesion of average size."""


@dataclass(frozen=True, eq=False)
class LesionRegions:
    """The parts of one frame that clinical measures compare; masks are bool (H, W)."""

    box: Box
    """See `lesion_box`, of all lesions of the frame."""
    lesion: Mask
    """The largest lesion of the mask."""
    core: Mask
    """Its inner part: deeper than half of its greatest depth below the border."""
    periphery: Mask
    """The rest of it."""
    ring: Mask
    """RING_MM around it, other lesions left out."""
    near: Mask
    """Within one radius of it, itself included: as far as a hard area is followed."""
    reference: Mask
    """What it is compared with: tissue beside it, see `lesion_regions`."""
    elsewhere: Mask
    """All tissue of the frame beyond the gap, at whatever depth."""


def lesion_box(mask: Mask, margin: float = 0.2) -> Box:
    """Bounding box of a lesion, widened on each side by a share of its size, inside the frame."""
    spans = []
    for axis in (0, 1):
        inside = np.flatnonzero(mask.any(axis=1 - axis))
        extra = round(margin * (inside[-1] - inside[0] + 1))
        spans.append(
            slice(max(0, int(inside[0]) - extra), min(mask.shape[axis], int(inside[-1]) + 1 + extra))
        )
    return spans[0], spans[1]


def lesion_regions(mask: Mask, spacing_mm: float) -> LesionRegions | None:
    """Find the regions of the largest lesion; None where the mask is empty or fills the frame.

    spacing_mm  size of a pixel; 0 if unknown, see TYPICAL_RADIUS_MM.

    Without labels of tissue, fat cannot be told from gland. The reference is therefore what a reader
    would first look at: all tissue at the lesion's depth (strain falls with depth), more than GAP_MM
    from any lesion. Where that is less than a quarter of the lesion's area, as beside one that fills the
    width, it is all tissue beyond the gap; where even that is too little, the ring.
    """
    if not mask.any() or mask.all():
        return None
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    lesion = np.asarray(parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))
    area = int(lesion.sum())
    radius = float(np.sqrt(area / np.pi))
    pixel_mm = spacing_mm if spacing_mm > 0 else TYPICAL_RADIUS_MM / radius
    depth = cv2.distanceTransform(lesion.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    core = lesion & (depth > 0.5 * depth.max())
    away = cv2.distanceTransform((~lesion).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    away_from_all = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = (away > 0) & (away <= max(RING_MM / pixel_mm, 1.5)) & ~mask
    far = away_from_all > GAP_MM / pixel_mm
    elsewhere = far if far.sum() >= 0.25 * area else ring
    beside = far & np.any(lesion, axis=1, keepdims=True)
    reference = beside if beside.sum() >= 0.25 * area else elsewhere
    near = away <= max(radius, 1.5)
    return LesionRegions(lesion_box(mask), lesion, core, lesion & ~core, ring, near, reference, elsewhere)
