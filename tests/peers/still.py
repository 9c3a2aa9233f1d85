"""Small fictitious breast ultrasound objects, in every shape that a test may want."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileDataset, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dicom_node.core.identity import derive_uid

US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"
US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1; half open, as an array is cut."""


def speckle(rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Fully developed speckle over layers of tissue with one dark lesion: uint8 (rows, columns)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns] / np.array([rows, columns]).reshape(2, 1, 1)
    layer = 70 + 45 * (np.abs(y - 0.45 + 0.04 * np.sin(9 * x)) < 0.2) - 35 * (y > 0.85) + 60 * (y < 0.05)
    lesion = ((x - 0.55) / 0.17) ** 2 + ((y - 0.48) / 0.13) ** 2 < 1
    tissue = np.where(lesion, 24.0, layer)
    field = rng.standard_normal((2, rows, columns)).astype(np.float32)
    real, imaginary = (cv2.GaussianBlur(part, (0, 0), 2.2, sigmaY=1.0) for part in field)
    envelope = np.hypot(real, imaginary)
    shown = tissue + 22 * np.log(envelope / np.median(envelope) + 1e-3)
    return np.clip(shown, 1, 254).astype(np.uint8)


def region(box: Box, *, data_type: int = 1, spacing_mm: float = 0.1, spatial_format: int = 1) -> Dataset:
    """One item of the Sequence of Ultrasound Regions (PS3.3 C.8.5.5): type 1 is tissue, 2 colour flow."""
    item = Dataset()
    item.RegionSpatialFormat = spatial_format
    item.RegionDataType = data_type
    item.RegionFlags = 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = box[0], box[1]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box[2] - 1, box[3] - 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3  # centimetres
    item.PhysicalDeltaX = item.PhysicalDeltaY = spacing_mm / 10
    return item


def breast_still(
    *,
    seed: int = 0,
    rows: int = 240,
    columns: int = 320,
    frames: int = 1,
    pixels: NDArray[np.uint8] | None = None,
    photometric: str = "MONOCHROME2",
    transfer_syntax: str = ExplicitVRLittleEndian,
    character_set: str | Sequence[str] | None = "ISO_IR 100",
    patient_name: bytes | str = b"DOE^JANE",
    patient_id: str = "TEST-0001",
    regions: Iterable[Dataset] = (),
    study: str = "study",
    series: str = "series",
    instance_number: int = 1,
    sop_class: str | None = None,
    **attributes: Any,
) -> FileDataset:
    """Build one breast ultrasound object.

    pixels         uint8 (H, W), (H, W, 3) or (N, H, W[, 3]); else speckle of `seed`, `rows`, `columns`.
    photometric    MONOCHROME1, MONOCHROME2, RGB, YBR_FULL, YBR_FULL_422 or PALETTE COLOR.
    transfer_syntax  native, RLE, JPEG Baseline, JPEG-LS or JPEG 2000.
    patient_name   bytes go into the object as they are, whatever `character_set` says; text as ASCII.
    study, series  any words: the UIDs derive from them, so equal words give one study.
    attributes     keyword=value set at the end; None leaves the attribute out.
    """
    shown = _frames(pixels, rows, columns, frames, seed)
    ds = _header(shown.shape[1:3], len(shown), sop_class, transfer_syntax)
    words = {"study": study, "series": series, "instance": instance_number, "seed": seed}
    ds.StudyInstanceUID = derive_uid("test-study", {"study": study})
    ds.SeriesInstanceUID = derive_uid("test-series", {"study": study, "series": series})
    ds.SOPInstanceUID = derive_uid("test-instance", words)
    ds.InstanceNumber = instance_number
    ds.PatientID = patient_id
    if character_set is not None:
        ds.SpecificCharacterSet = character_set if isinstance(character_set, str) else list(character_set)
    if regions:
        ds.SequenceOfUltrasoundRegions = list(regions)
    for keyword, value in attributes.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    _set_pixels(ds, shown, photometric, transfer_syntax)
    # Last, because whatever decodes and encodes the element again may change its bytes.
    _set_raw_name(ds, patient_name if isinstance(patient_name, bytes) else patient_name.encode("ascii"))
    return ds


def write(ds: Dataset, path: Path) -> Path:
    """Write a complete DICOM file; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def _frames(
    pixels: NDArray[np.uint8] | None, rows: int, columns: int, frames: int, seed: int
) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, 3)."""
    if pixels is None:
        return np.stack([speckle(rows, columns, seed * 1000 + index) for index in range(frames)])
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3):
        return pixels[None]
    return pixels


def _header(size: tuple[int, ...], frames: int, sop_class: str | None, transfer_syntax: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class or (US_IMAGE if frames == 1 else US_MULTIFRAME)
    meta.TransferSyntaxUID = transfer_syntax
    ds = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    ds.SOPClassUID = meta.MediaStorageSOPClassUID
    ds.ImageType = ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20260105"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "101500"
    ds.AccessionNumber = "TEST-ACC-1"
    ds.Modality = "US"
    ds.Manufacturer = "Fictitious Ultrasound"
    ds.ManufacturerModelName = "Testbench"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "US BREAST LEFT"
    ds.SeriesDescription = "Breast"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "F"
    ds.BodyPartExamined = "BREAST"
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.PatientOrientation = ""
    ds.Laterality = "L"
    ds.LossyImageCompression = "00"
    ds.Rows, ds.Columns = size
    if frames > 1:
        ds.NumberOfFrames = frames
        ds.FrameTime = 40
        ds.FrameIncrementPointer = Tag("FrameTime")
    return ds


def _set_pixels(ds: FileDataset, shown: NDArray[np.uint8], photometric: str, transfer_syntax: str) -> None:
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.PhotometricInterpretation = photometric
    if photometric in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        colour = shown if shown.ndim == 4 else np.repeat(shown[..., None], 3, axis=-1)
        ds.SamplesPerPixel = 3
        ds.PlanarConfiguration = 0
        stored = colour if photometric == "RGB" or transfer_syntax == JPEGBaseline8Bit else _to_ybr(colour)
    else:
        if shown.ndim == 4:
            raise ValueError(f"{photometric} has one sample per pixel; the pixels given have three")
        ds.SamplesPerPixel = 1
        stored = 255 - shown if photometric == "MONOCHROME1" else shown
        if photometric == "PALETTE COLOR":
            _set_grey_palette(ds)
    stored = np.ascontiguousarray(stored)
    if transfer_syntax == JPEGBaseline8Bit:
        _set_jpeg(ds, stored, photometric)
        return
    native = stored
    if photometric == "YBR_FULL_422":
        # PS3.3 C.7.6.3.1.2: Y1 Y2 Cb Cr for each pair of pixels.
        pairs = stored.reshape(*stored.shape[:2], -1, 2, 3)
        native = np.concatenate([pairs[..., 0], pairs[..., :1, 1], pairs[..., :1, 2]], axis=-1)
    ds.PixelData = native.tobytes() + b"\0" * (native.size % 2)
    ds["PixelData"].VR = "OB"
    if transfer_syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        ds["PixelData"].VR = "OW"
        if transfer_syntax == ExplicitVRBigEndian:
            # 8-bit pixels in 16-bit words: the words are swapped on the wire (PS3.5 D, note 2).
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        return
    if transfer_syntax == ExplicitVRLittleEndian:
        return
    _compress(ds, transfer_syntax)


def _compress(ds: FileDataset, transfer_syntax: str) -> None:
    # compress() starts from native pixels and refuses a data set that already says otherwise.
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plugins = {RLELossless: "pylibjpeg", JPEGLSLossless: "pyjpegls", JPEGLSNearLossless: "pyjpegls"}
    options: dict[str, Any] = {JPEGLSNearLossless: {"jls_error": 2}, JPEG2000: {"j2k_cr": [8]}}.get(
        transfer_syntax, {}
    )
    ds.compress(
        transfer_syntax,
        encoding_plugin=plugins.get(transfer_syntax, "pylibjpeg"),
        generate_instance_uid=False,
        **options,
    )
    if transfer_syntax not in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        _set_lossy(ds, "ISO_15444_1" if transfer_syntax == JPEG2000 else "ISO_14495_1")


def _set_jpeg(ds: FileDataset, stored: NDArray[np.uint8], photometric: str) -> None:
    encoded = []
    for frame in stored:
        buffer = io.BytesIO()
        # An RGB image is kept as RGB components; YBR_FULL_422 halves the chroma horizontally.
        options = (
            {"keep_rgb": True} if photometric == "RGB" else {"subsampling": 1 if "422" in photometric else 0}
        )
        Image.fromarray(frame).save(buffer, "JPEG", quality=92, **options)
        encoded.append(buffer.getvalue())
    ds.PixelData = encapsulate(encoded)
    ds["PixelData"].VR = "OB"
    _set_lossy(ds, "ISO_10918_1")


def _set_lossy(ds: FileDataset, method: str) -> None:
    ds.LossyImageCompression = "01"
    native = ds.Rows * ds.Columns * ds.SamplesPerPixel * int(ds.get("NumberOfFrames", 1))
    ds.LossyImageCompressionRatio = f"{native / len(ds.PixelData):.2f}"
    ds.LossyImageCompressionMethod = method


def _set_grey_palette(ds: FileDataset) -> None:
    ramp = (np.arange(256, dtype="<u2") * 257).tobytes()
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", ramp)


def _set_raw_name(ds: FileDataset, name: bytes) -> None:
    padded = name + b" " * (len(name) % 2)
    syntax = ds.file_meta.TransferSyntaxUID
    tag = Tag("PatientName")
    ds[tag] = RawDataElement(
        tag, "PN", len(padded), padded, 0, syntax.is_implicit_VR, syntax.is_little_endian, True
    )


def _to_ybr(colour: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range BT.601, as PS3.3 C.7.6.3.1.2 has it."""
    flat = np.ascontiguousarray(colour.reshape(-1, 1, 3))
    ycrcb = cv2.cvtColor(flat, cv2.COLOR_RGB2YCrCb)
    return np.ascontiguousarray(ycrcb[..., [0, 2, 1]]).reshape(colour.shape).astype(np.uint8)
