"""Real breast B-mode stills (BUSI), wrapped as the DICOM objects a scanner would have sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import FileDataset

from dicom_node.core.identity import derive_uid
from peers.still import breast_still, region, write

__all__ = ["breast_still", "busi_images", "wrap_png", "write"]


def busi_images(folder: Path, label: str | None = None) -> list[Path]:
    """The stills without their masks, sorted; `label` is benign, malignant or normal."""
    found = folder.glob(f"{label or '*'}/*.png")
    return sorted(path for path in found if "_mask" not in path.stem)


def wrap_png(
    png: Path, *, spacing_mm: float | None = None, colour: bool = True, **options: Any
) -> FileDataset:
    """Wrap one PNG as a breast ultrasound still of a fictitious patient.

    spacing_mm  given: one tissue region over the whole image with this spacing. The real spacing of
                these images is not known.
    colour      True: RGB as most scanners send; False: MONOCHROME2.
    options     as of `breast_still`.

    The UIDs follow from the picture's name, one study per picture.
    """
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB" if colour else "L"))
    height, width = pixels.shape[:2]
    regions = [] if spacing_mm is None else [region((0, 0, width, height), spacing_mm=spacing_mm)]
    name = f"{png.parent.name}/{png.stem}"
    return breast_still(
        **{
            "pixels": pixels,
            "photometric": "RGB" if colour else "MONOCHROME2",
            "regions": regions,
            "study": f"busi {name}",
            "patient_id": "BUSI-" + derive_uid("busi-patient", {"image": name})[-8:],
            **options,
        }
    )
