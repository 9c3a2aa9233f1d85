"""What the demo sends: one study of a patient who does not exist, or anybody's files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileDataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

from dicom_node.core.identity import Fact, derive_uid
from dicom_node.demo.screen import Box, Labels, Screen, draw_flow, draw_screen
from training.pairs.pair import Pair
from training.simulator.simulate import SIMULATOR_VERSION, simulate_pair

STUDY_VERSION = 1
"""Raise when the same seeds would give other files: their UIDs must then differ."""

STILL_SEEDS = (2_000_001, 2_000_002, 2_000_000, 2_000_003, 2_000_015)
"""The first of each kind in the simulator's test range, which no bundle was fitted on: malignant,
benign, cyst, isoechoic (of which B-mode shows almost nothing), none. Not chosen by how well they do."""

CINE_SEED, DOPPLER_SEED = 2_000_008, 2_000_022
CINE_FRAMES = 9
_FRAME_TIME_MS = 60.0

_US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"
_US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"
_TISSUE, _COLOUR_FLOW = 1, 2  # PS3.3 C.8.5.5.1.2, Region Data Type
_HOSPITAL, _PATIENT_NAME, _PATIENT_ID = "EMODE DEMO HOSPITAL", "Demo^Anna", "EMODE-DEMO-1"
_TAKEN = datetime(2026, 1, 5, 10, 15, tzinfo=UTC)
_POSITIONS = ("2:00  N+4  RAD", "2:00  N+4  ARAD", "10:00  N+3  RAD", "6:00  N+5  RAD", "12:00  N+2  RAD")
_KINDS = {
    "none": "no lesion",
    "benign": "benign mass",
    "malignant": "malignant mass",
    "isoechoic": "isoechoic mass",
    "cyst": "cyst",
    "lipoma": "lipoma",
}


@dataclass(frozen=True, eq=False)
class DemoImage:
    """One file of the study that the demo sends."""

    path: Path
    title: str
    sop_instance_uid: str
    truth: NDArray[np.float32] | None = None
    """The simulated strain index in [0, 1] on the pixels of `bmode_box` (of a cine: in its middle
    frame); 1 is soft. None where nobody knows it."""
    bmode_box: Box | None = None


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """What a folder holds."""

    images: tuple[DemoImage, ...]
    ignored: int
    """Files that are not DICOM instances."""


def write_demo_study(folder: Path, seeds: Sequence[int] = STILL_SEEDS) -> list[DemoImage]:
    """Write the fictitious study as a scanner would send it: stills, a cine, a colour Doppler image.

    The same seeds give the same files and UIDs, so sending them again adds nothing to an archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Fact] = {
        "study": STUDY_VERSION,
        "simulator": SIMULATOR_VERSION,
        "seeds": list(seeds),
    }
    exam = _Exam(folder, derive_uid("demo-study", facts))
    images = [exam.write_still(simulate_pair(seed)) for seed in seeds]
    images.append(exam.write_cine(simulate_pair(CINE_SEED)))
    images.append(exam.write_doppler(simulate_pair(DOPPLER_SEED), DOPPLER_SEED))
    return images


def read_study(folder: Path) -> FoundStudy:
    """Find every DICOM instance below a folder, in the order of their paths; change nothing."""
    images: list[DemoImage] = []
    ignored = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        uid = _instance_uid(path)
        if uid is None:
            ignored += 1
        else:
            images.append(DemoImage(path, str(path.relative_to(folder)), uid))
    return FoundStudy(tuple(images), ignored)


def _instance_uid(path: Path) -> str | None:
    try:
        if not is_dicom(path):
            return None
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
    except (InvalidDicomError, EOFError, OSError, ValueError, NotImplementedError):
        return None
    # A DICOMDIR is a DICOM file without an instance.
    return str(ds.SOPInstanceUID) if ds.get("SOPInstanceUID") else None


class _Exam:
    """The study while it is written: counts the images and the minutes."""

    def __init__(self, folder: Path, study_instance_uid: str) -> None:
        self._folder = folder
        self._study = study_instance_uid
        self._count = 0

    def write_still(self, pair: Pair) -> DemoImage:
        screen = draw_screen(pair.bmode, pair.spacing_mm, self._labels("2D"))
        ds = self._header(_US_IMAGE, ExplicitVRLittleEndian, [_region(_TISSUE, screen.bmode_box, screen)])
        _set_native(ds, screen.pixels)
        kind = str(pair.info.get("kind", "none"))
        return self._write(ds, _KINDS.get(kind, kind), screen.bmode_box, pair.strain)

    def write_doppler(self, pair: Pair, seed: int) -> DemoImage:
        screen, colour_box = draw_flow(
            draw_screen(pair.bmode, pair.spacing_mm, self._labels("2D + CFI")), seed
        )
        regions = [_region(_TISSUE, screen.bmode_box, screen), _region(_COLOUR_FLOW, colour_box, screen)]
        ds = self._header(_US_IMAGE, ExplicitVRLittleEndian, regions)
        ds.UltrasoundColorDataPresent = 1
        _set_native(ds, screen.pixels)
        return self._write(ds, "colour Doppler", None, None)

    def write_cine(self, pair: Pair) -> DemoImage:
        labels = self._labels("2D cine")
        screens = [draw_screen(frame, pair.spacing_mm, labels) for frame in _sweep(pair.bmode)]
        box = screens[0].bmode_box
        ds = self._header(_US_MULTIFRAME, JPEGBaseline8Bit, [_region(_TISSUE, box, screens[0])])
        ds.NumberOfFrames = len(screens)
        ds.FrameTime = _FRAME_TIME_MS
        ds.FrameIncrementPointer = Tag("FrameTime")
        _set_jpeg(ds, [screen.pixels for screen in screens])
        return self._write(ds, f"cine, {len(screens)} frames", box, pair.strain)

    def _labels(self, mode: str) -> Labels:
        position = _POSITIONS[self._count % len(_POSITIONS)]
        name = _PATIENT_NAME.replace("^", ", ").upper()
        return Labels(
            _HOSPITAL,
            f"{name}   {_PATIENT_ID}",
            f"{self._now():%Y-%m-%d %H:%M}",
            f"LEFT BREAST  {position}",
            mode,
        )

    def _now(self) -> datetime:
        return _TAKEN + timedelta(seconds=70 * self._count)

    def _header(self, sop_class: str, transfer_syntax: str, regions: list[Dataset]) -> FileDataset:
        number = self._count + 1
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(sop_class)
        own_uid = UID(derive_uid("demo-instance", {"study": self._study, "number": number}))
        meta.MediaStorageSOPInstanceUID = own_uid
        meta.TransferSyntaxUID = UID(transfer_syntax)
        meta.ImplementationClassUID = UID(derive_uid("demo-scanner", {"study": STUDY_VERSION}))
        meta.ImplementationVersionName = "DEMO_SCANNER"
        ds = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "BREAST", "0001"]
        ds.SOPClassUID, ds.SOPInstanceUID = UID(sop_class), own_uid
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = f"{_TAKEN:%Y%m%d}"
        ds.StudyTime = ds.SeriesTime = f"{_TAKEN:%H%M%S}"
        ds.ContentTime = f"{self._now():%H%M%S}"
        ds.AccessionNumber = "DEMO-0001"
        ds.Modality = "US"
        ds.Manufacturer = "Fictitious Ultrasound"
        ds.ManufacturerModelName = "Simulator"
        ds.SoftwareVersions = f"simulator {SIMULATOR_VERSION}"
        ds.InstitutionName = _HOSPITAL
        ds.StationName = "DEMO-US1"
        ds.ReferringPhysicianName = ""
        ds.StudyDescription = "US BREAST LEFT (SIMULATED)"
        ds.SeriesDescription = "Breast"
        ds.PatientName, ds.PatientID = _PATIENT_NAME, _PATIENT_ID
        ds.PatientBirthDate, ds.PatientSex = "19720504", "F"
        ds.BodyPartExamined = "BREAST"
        ds.StudyInstanceUID = self._study
        ds.SeriesInstanceUID = derive_uid("demo-series", {"study": self._study})
        ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", 1, number
        ds.PatientOrientation = ""
        ds.Laterality = "L"
        ds.SequenceOfUltrasoundRegions = regions
        ds.BurnedInAnnotation = "YES"
        ds.SyntheticData = "YES"
        ds.LossyImageCompression = "00"
        return ds

    def _write(
        self, ds: FileDataset, title: str, box: Box | None, strain: NDArray[np.float32] | None
    ) -> DemoImage:
        self._count += 1
        path = self._folder / f"{self._count:02d}-{title.split(',')[0].replace(' ', '-').lower()}.dcm"
        dcmwrite(path, ds, enforce_file_format=True)
        truth: NDArray[np.float32] | None = None
        if box is not None and strain is not None:
            size = (box[2] - box[0], box[3] - box[1])
            enlarged = cv2.resize(strain, size, interpolation=cv2.INTER_LINEAR)
            truth = np.clip(enlarged, 0, 1).astype(np.float32)
        return DemoImage(path, f"{self._count}  {title}", str(ds.SOPInstanceUID), truth, box)


def _region(data_type: int, box: Box, screen: Screen) -> Dataset:
    item = Dataset()
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3  # centimetres
    item.PhysicalDeltaX = item.PhysicalDeltaY = screen.spacing_mm / 10
    item.RegionSpatialFormat = 1  # 2D
    item.RegionDataType = data_type
    item.RegionFlags = 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = box[0], box[1]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box[2] - 1, box[3] - 1  # both ends belong to it
    return item


def _sweep(bmode: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The same tissue under a hand that is not quite still; the middle frame has not moved."""
    rng = np.random.default_rng([CINE_SEED, STUDY_VERSION])
    middle = CINE_FRAMES // 2
    for number in range(CINE_FRAMES):
        dx, dy = 1.3 * (number - middle), 0.8 * np.sin(1.1 * (number - middle))
        shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        size = (bmode.shape[1], bmode.shape[0])
        moved = cv2.warpAffine(bmode, shift, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        noisy = moved + rng.normal(0, 2.0, bmode.shape)
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def _set_native(ds: FileDataset, pixels: NDArray[np.uint8]) -> None:
    _set_layout(ds, pixels, "RGB")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB"


def _set_jpeg(ds: FileDataset, frames: Sequence[NDArray[np.uint8]]) -> None:
    _set_layout(ds, frames[0], "YBR_FULL_422")
    encoded = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=92, subsampling="4:2:2")
        encoded.append(buffer.getvalue())
    ds.PixelData = encapsulate(encoded)
    ds["PixelData"].VR = "OB"
    ds.LossyImageCompression = "01"
    ratio = sum(frame.nbytes for frame in frames) / sum(map(len, encoded))
    ds.LossyImageCompressionRatio = f"{ratio:.2f}"
    ds.LossyImageCompressionMethod = "ISO_10918_1"


def _set_layout(ds: FileDataset, frame: NDArray[np.uint8], photometric: str) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, photometric, 0
    ds.Rows, ds.Columns = frame.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
