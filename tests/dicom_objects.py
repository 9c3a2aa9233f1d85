"""Small ultrasound objects for the tests, made here."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
ULTRASOUND_CINE = "1.2.840.10008.5.1.4.1.1.3.1"
STUDY, SERIES, INSTANCE = "1.2.826.0.1.1.1", "1.2.826.0.1.1.2", "1.2.826.0.1.1.3"

Frame = NDArray[np.uint8]


def speckle(rows: int, columns: int, seed: int = 7, mean: float = 90.0) -> Frame:
    """Rayleigh speckle, smoothed to a few pixels, with a dark lesion in the middle; uint8 (rows, columns)."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(2, rows, columns)).astype(np.float32)
    envelope = np.hypot(cv2.GaussianBlur(field[0], (0, 0), 1.2), cv2.GaussianBlur(field[1], (0, 0), 1.2))
    echo = 40 * np.log1p(4 * envelope / envelope.mean())
    y, x = np.mgrid[:rows, :columns]
    lesion = ((y - rows / 2) / (rows / 6)) ** 2 + ((x - columns / 2) / (columns / 6)) ** 2 < 1
    echo = np.where(lesion, 0.35 * echo, echo)
    return np.clip(echo * mean / echo.mean(), 0, 255).astype(np.uint8)


def region(
    x0: int,
    y0: int,
    x1: int,
    y1: int,
    *,
    spatial: int = 1,
    data: int = 1,
    flags: int = 2,
    delta_cm: float = 0.01,
) -> Dataset:
    """One item of the Sequence of Ultrasound Regions; corners inclusive, as in the file."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = spatial, data, flags
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta_cm, -2 * delta_cm
    return item


def ultrasound(pixels: Frame, *, regions: tuple[Dataset, ...] = (), **attributes: object) -> FileDataset:
    """A US image: pixels uint8 (H, W) or (H, W, 3), or (N, H, W) if NumberOfFrames is given.

    An attribute given as None is left out.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    colour = pixels.ndim == 3 and "NumberOfFrames" not in attributes
    frame_axes = 1 if "NumberOfFrames" in attributes else 0
    values: dict[str, object] = {
        "SOPClassUID": ULTRASOUND,
        "SOPInstanceUID": INSTANCE,
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "Modality": "US",
        "PatientName": "Doe^Jane",
        "PatientID": "PID-77",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "AccessionNumber": "A-5",
        "StudyID": "S-9",
        "ReferringPhysicianName": "Ref^Erring",
        "SeriesNumber": 3,
        "InstanceNumber": 12,
        "Manufacturer": "Scanner Works",
        "ManufacturerModelName": "Echo 9",
        "ImageType": ["ORIGINAL", "PRIMARY", "SMALL PARTS", "0001"],
        "Rows": pixels.shape[frame_axes],
        "Columns": pixels.shape[frame_axes + 1],
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    } | attributes
    if colour:
        values.setdefault("PlanarConfiguration", 0)
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    if regions:
        ds.SequenceOfUltrasoundRegions = list(regions)
    data = pixels.tobytes()
    ds.add_new(0x7FE00010, "OB", data + b"\0" * (len(data) % 2))
    return ds


def breast_image(side: int = 160, **attributes: object) -> FileDataset:
    """A still that the gate accepts, by its region."""
    frame = speckle(side, side + 40)
    return ultrasound(frame, regions=(region(0, 0, side + 39, side - 1),), **attributes)


def saved(ds: FileDataset, path: Path) -> Path:
    """Write it as Part 10."""
    ds.save_as(path, enforce_file_format=True)
    return path


def encoded(ds: FileDataset) -> bytes:
    """The bytes of its Part 10 file."""
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
