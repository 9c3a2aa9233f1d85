"""One exported screen, picture or DICOM, as pixels with the little that its header says."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dicom_node.core.errors import NodeError
from dicom_node.dicom.burned_in import bears_our_title
from dicom_node.dicom.header import header_of, open_part10, read_dataset, text
from dicom_node.dicom.pixels import decode_frame, layout_of, luma
from dicom_node.dicom.reading import ReadLimits
from dicom_node.dicom.regions import Box, overlap, read_regions
from training.screens.panes import Rgb
from training.screens.reasons import Reason, Rejection

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
_PREAMBLE = 128


@dataclass(frozen=True, eq=False)
class Screen:
    """What a file shows."""

    rgb: Rgb
    """(H, W, 3)."""
    patient: str = ""
    """PatientID; of a person, so it goes no farther than into a keyed pseudonym. Empty for pictures."""
    tissue: tuple[Box, ...] = ()
    bars: tuple[Box, ...] = ()
    spacings_mm: tuple[tuple[Box, tuple[float, float]], ...] = ()
    """(row, column) spacing of the calibrated tissue regions."""

    def spacing_mm(self, box: Box) -> tuple[float, float] | None:
        """The spacing of the region that holds most of a box."""
        held = [(overlap(box, region), spacing) for region, spacing in self.spacings_mm]
        best = max(held, default=(0, (0.0, 0.0)))
        return best[1] if best[0] else None


def is_screen(path: Path) -> bool:
    """Is it a picture, or by its first bytes DICOM (PS3.10 7.1)?"""
    if path.suffix.lower() in PICTURES:
        return True
    with path.open("rb") as file:
        return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"


def digest_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_screen(path: Path, limits: ReadLimits | None = None) -> Screen | Rejection:
    """Read a file that `is_screen`; raises NodeError or OSError if this machine, not the file, is at fault.

    A cine is read by its middle frame, as the node does.
    """
    if path.suffix.lower() not in PICTURES:
        try:
            return _read_dicom(path, limits or ReadLimits())
        except NodeError as error:
            if not error.permanent:
                raise
            return Rejection(Reason.UNREADABLE, type(error).__name__)
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return Rejection(Reason.UNREADABLE, "not a picture")
    return _measured(Screen(np.ascontiguousarray(picture[..., ::-1], dtype=np.uint8)))


def _read_dicom(path: Path, limits: ReadLimits) -> Screen | Rejection:
    with open_part10(path) as file:
        ds = read_dataset(file)
        header = header_of(ds)
        if header.own_result or header.synthetic:
            return Rejection(Reason.SYNTHETIC, "its header says so")
        exceeded = limits.exceeded(header)
        if exceeded is not None:
            return Rejection(Reason.UNREADABLE, exceeded.facts)
        findings = read_regions(ds, header.rows, header.columns)
        layout = layout_of(ds, limits.max_pixels)
        frame = decode_frame(file, ds, layout, (layout.frames - 1) // 2)
    if frame.ndim == 2:
        frame = np.repeat(frame[..., None], 3, axis=2)
    inside = tuple(b for b in findings.colour_bars if _is_inside(b, frame.shape[:2]))
    screen = Screen(
        rgb=frame,
        patient=text(ds, "PatientID"),
        tissue=tuple(region.box for region in findings.usable),
        bars=inside,
        spacings_mm=tuple((r.box, r.spacing_mm) for r in findings.usable if r.spacing_mm is not None),
    )
    return _measured(screen)


def _measured(screen: Screen) -> Screen | Rejection:
    if bears_our_title(luma(screen.rgb)):
        return Rejection(Reason.SYNTHETIC, "the words AI SYNTHETIC stand in its pixels")
    return screen


def _is_inside(box: Box, shape: tuple[int, ...]) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= shape[1] + 1 and box[3] <= shape[0] + 1
