"""The 25 real ultrasound files: what a sonographer would say of each, and valid results of all accepted."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.uid import JPEGLosslessSV1

from dicom_node.dicom.reading import SourceImage, read_image
from dicom_node.dicom.results import write_result
from dicom_node.dicom.services import DECODERS
from dicom_node.dicom.skip import Skip, SkipCode
from dicom_objects import saved, ultrasound
from test_dicom_results import dcentvfy, dciodvfy, results_of

FOLDER = Path(
    os.environ.get("EMODE_REAL_DATA", str(Path(__file__).resolve().parents[1].parent / "shared" / "data"))
)

# File -> the skip that its picture deserves, or the number of panes.
VERDICTS: dict[str, SkipCode | int] = {
    "ExplVR_BigEnd.dcm": SkipCode.TOO_SMALL,
    "GREYSCALE_CINE.dcm": 1,
    "GREYSCALE_IMAGE.dcm": 1,
    "JPGLosslessP14SV1_1s_1f_8b.dcm": 1,
    # A probe in air: a ring-down arc, a caliper and text on black.
    "OBXXXX1A.dcm": SkipCode.NO_SIGNAL,
    "OBXXXX1A_2frame.dcm": SkipCode.NO_SIGNAL,
    "OBXXXX1A_expb.dcm": SkipCode.NO_SIGNAL,
    "OBXXXX1A_rle.dcm": SkipCode.NO_SIGNAL,
    "OBXXXX1A_rle_2frame.dcm": SkipCode.NO_SIGNAL,
    "examples_palette.dcm": SkipCode.NO_BMODE,  # the same, cut so that its region no longer fits
    "RGB_IMAGE.dcm": SkipCode.NO_SIGNAL,
    "US1_RLE.dcm": SkipCode.DOPPLER,
    "US1_UNCI.dcm": SkipCode.DOPPLER,
    "US1_UNCR.dcm": SkipCode.DOPPLER,
    "color-pl.dcm": SkipCode.DOPPLER,
    "color-px.dcm": SkipCode.DOPPLER,
    "color3d_jpeg_baseline.dcm": 1,
    "examples_jpeg2k.dcm": SkipCode.DOPPLER,
    "examples_rgb_color.dcm": SkipCode.DOPPLER,
    "examples_ybr_color.dcm": 1,
    "gdcm-US-ALOKA-16.dcm": 2,
    "gdcm-US-ALOKA-16_big.dcm": 2,
    "gdcm-US-RGB-8-epicard.dcm": SkipCode.DOPPLER,
    "gdcm-US-RGB-8-esopecho.dcm": SkipCode.DOPPLER,
    "nema-us1_j2ki.dcm": SkipCode.DOPPLER,
}
# Five pictures of the breast collection show flow, which its own labels do not say.
BREAST_FLOW = {"benign_234", "benign_240", "benign_255", "benign_261", "benign_277"}
NEEDS_GDCM = {"JPGLosslessP14SV1_1s_1f_8b.dcm"}

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (FOLDER / "us-dicom").is_dir(), reason="no real data (EMODE_REAL_DATA)"),
]


def test_every_file_has_a_verdict() -> None:
    assert {path.name for path in (FOLDER / "us-dicom").glob("*.dcm")} == set(VERDICTS)


@pytest.mark.parametrize("name", sorted(VERDICTS))
def test_real_file(name: str, tmp_path: Path) -> None:
    if name in NEEDS_GDCM and str(JPEGLosslessSV1) not in DECODERS:
        pytest.skip("JPEG Lossless needs the extra jpeg-lossless")
    path = FOLDER / "us-dicom" / name
    image = read_image(path)
    expected = VERDICTS[name]
    if isinstance(expected, SkipCode):
        assert isinstance(image, Skip)
        assert image.code is expected
        return
    assert isinstance(image, SourceImage), image
    assert len(image.panes) == expected
    for number, built in enumerate(results_of(path)):
        target = tmp_path / f"{number}.dcm"
        write_result(built, target)
        assert dciodvfy(target) == []
        assert dcentvfy(path, target) == []


def test_both_byte_orders_of_a_palette_image_are_one_picture() -> None:
    little, big = (
        read_image(FOLDER / "us-dicom" / name)
        for name in ("gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm")
    )
    assert isinstance(little, SourceImage)
    assert isinstance(big, SourceImage)
    assert [pane.digest for pane in little.panes] == [pane.digest for pane in big.panes]


def test_real_breast_images_without_regions_are_found(tmp_path: Path) -> None:
    paths = [p for p in sorted((FOLDER / "busi").glob("*/*.png")) if "_mask" not in p.stem][::16]
    if not paths:
        pytest.skip("no breast images")
    for path in paths:
        frame = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        image = read_image(saved(ultrasound(frame), tmp_path / "a.dcm"))
        if path.stem in BREAST_FLOW:
            assert isinstance(image, Skip)
            assert image.code is SkipCode.DOPPLER
            continue
        assert isinstance(image, SourceImage), (path.name, image)
        x0, y0, x1, y1 = image.panes[0].box
        assert (x1 - x0) * (y1 - y0) > 0.5 * frame.shape[0] * frame.shape[1]
