"""The gate: which frames become panes, which are left alone, and with which code."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_node.core.errors import DecodingInterrupted, NodeError
from dicom_node.dicom.content import find_bmode_area, parts_of
from dicom_node.dicom.reading import ReadLimits, SourceImage, read_image
from dicom_node.dicom.regions import read_regions
from dicom_node.dicom.skip import Skip, SkipCode
from dicom_objects import ULTRASOUND_CINE, Frame, breast_image, encoded, region, saved, speckle, ultrasound


def read(ds: object, folder: Path) -> Skip | SourceImage:
    return read_image(saved(ds, folder / "a.dcm"))  # type: ignore[arg-type]


def accepted(ds: object, folder: Path) -> SourceImage:
    image = read(ds, folder)
    assert isinstance(image, SourceImage), image
    return image


def skipped(ds: object, folder: Path) -> Skip:
    skip = read(ds, folder)
    assert isinstance(skip, Skip)
    return skip


def screen(pane: Frame, at: tuple[int, int] = (60, 90), size: tuple[int, int] = (480, 640)) -> Frame:
    """A scanner's screen: black, two lines of text, a grey bar, and the pane."""
    picture = np.zeros(size, np.uint8)
    cv2.putText(picture, "HOSPITAL  DOE^JANE  L12-5", (8, 20), 0, 0.5, 255, 1)
    cv2.putText(picture, "MI 0.6 TIS 0.1 2D G60", (8, 40), 0, 0.5, 255, 1)
    picture[80:240, 615:630] = np.linspace(255, 0, 160, dtype=np.uint8)[:, None]
    y, x = at
    picture[y : y + pane.shape[0], x : x + pane.shape[1]] = pane
    return picture


def jet(strain: Frame) -> Frame:
    return np.ascontiguousarray(cv2.applyColorMap(strain, cv2.COLORMAP_JET)[..., ::-1])


# -- accepted ------------------------------------------------------------------------------------


def test_region_gives_the_pane_with_its_spacing(tmp_path: Path) -> None:
    frame = screen(speckle(360, 420))
    ds = ultrasound(frame, regions=(region(90, 60, 509, 419),))
    image = accepted(ds, tmp_path)
    (pane,) = image.panes
    assert (image.frame_index, image.frame_count, pane.index, pane.found_by) == (None, 1, 0, "regions")
    assert pane.box == (90, 60, 510, 420)
    assert pane.spacing_mm == pytest.approx((0.2, 0.1))
    assert np.array_equal(pane.grey, frame[60:420, 90:510])
    assert pane.digest == hashlib.sha256(b"360x420:" + pane.grey.tobytes()).hexdigest()
    assert not pane.grey.flags.writeable


def test_grey_in_three_channels_is_the_same_pane(tmp_path: Path) -> None:
    frame = speckle(160, 200)
    box = (region(0, 0, 199, 159),)
    grey = accepted(ultrasound(frame, regions=box), tmp_path)
    rgb = accepted(ultrasound(np.stack([frame] * 3, axis=-1), regions=box), tmp_path)
    assert grey.panes[0].digest == rgb.panes[0].digest


def test_two_tissue_regions_are_two_panes_left_first(tmp_path: Path) -> None:
    frame = np.hstack([speckle(300, 300, 1), speckle(300, 300, 2)])
    ds = ultrasound(frame, regions=(region(300, 0, 599, 299), region(0, 0, 299, 299)))
    left, right = accepted(ds, tmp_path).panes
    assert (left.index, left.box[0], right.index, right.box[0]) == (0, 0, 1, 300)
    assert left.digest != right.digest


def test_dark_pane_of_a_dual_view_is_left_out(tmp_path: Path) -> None:
    frame = np.hstack([np.zeros((300, 300), np.uint8), speckle(300, 300, 2)])
    ds = ultrasound(frame, regions=(region(0, 0, 299, 299), region(300, 0, 599, 299)))
    (pane,) = accepted(ds, tmp_path).panes
    assert pane.index == 1


def test_last_column_given_as_the_width_is_cut_to_fit(tmp_path: Path) -> None:
    ds = ultrasound(speckle(160, 200), regions=(region(0, 0, 200, 160),))
    assert accepted(ds, tmp_path).panes[0].box == (0, 0, 200, 160)


def test_stale_region_gives_way_to_image_content(tmp_path: Path) -> None:
    frame = screen(speckle(360, 420))
    image = accepted(
        ultrasound(frame, regions=(region(90, 60, 900, 700),), PixelSpacing=[0.1, 0.1]), tmp_path
    )
    (pane,) = image.panes
    assert pane.found_by == "image-content"
    assert np.abs(np.subtract(pane.box, (90, 60, 510, 420))).max() <= 12
    assert pane.spacing_mm is None


def test_image_without_regions_is_found_by_content(tmp_path: Path) -> None:
    ds = ultrasound(screen(speckle(360, 420)), PixelSpacing=[0.2, 0.1])
    (pane,) = accepted(ds, tmp_path).panes
    assert pane.found_by == "image-content"
    assert np.abs(np.subtract(pane.box, (90, 60, 510, 420))).max() <= 12
    assert pane.spacing_mm == (0.2, 0.1)


def test_tissue_to_the_edges_is_found_whole(tmp_path: Path) -> None:
    (pane,) = accepted(ultrasound(speckle(300, 400)), tmp_path).panes
    assert pane.box == (0, 0, 400, 300)


def test_tissue_on_both_sides_of_a_cyst_is_one_area() -> None:
    frame = speckle(400, 300)
    frame[120:300] = 0
    assert find_bmode_area(frame) == (0, 0, 300, 400)


def test_parts_are_those_that_opencv_lists() -> None:
    rng = np.random.default_rng(2)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        mask = (rng.random((90, 120)) < share).astype(np.uint8)
        mask[20:60, 30:80] = 1
        mask[25:55, 35:75] = 0  # a hole, and a part in it
        mask[35:45, 45:65] = 1
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        found, parts = parts_of(mask)
        assert np.array_equal(found, labels)
        listed = [(part.x, part.y, part.width, part.height, part.area) for part in parts]
        assert listed == [tuple(row) for row in stats[1:].tolist()]
        assert [part.label for part in parts] == list(range(1, count))


@pytest.mark.parametrize(("frames", "middle"), [(2, 0), (3, 1), (6, 2)])
def test_cine_is_read_by_its_middle_frame(tmp_path: Path, frames: int, middle: int) -> None:
    stack = np.stack([speckle(128, 128, seed) for seed in range(frames)])
    for sop_class in (ULTRASOUND_CINE, "1.2.840.10008.5.1.4.1.1.6.1"):
        ds = ultrasound(
            stack, NumberOfFrames=frames, SOPClassUID=sop_class, regions=(region(0, 0, 127, 127),)
        )
        image = accepted(ds, tmp_path)
        assert (image.frame_index, image.frame_count) == (middle, frames)
        assert np.array_equal(image.panes[0].grey, stack[middle])


def test_coloured_marks_of_the_screen_are_not_flow(tmp_path: Path) -> None:
    frame = np.stack([speckle(400, 400)] * 3, axis=-1)
    cv2.arrowedLine(frame, (20, 60), (32, 40), (0, 255, 0), 3)
    cv2.putText(frame, "LT 3H", (300, 390), 0, 0.5, (255, 255, 0), 1)
    accepted(ultrasound(frame, regions=(region(0, 0, 399, 399),)), tmp_path)


def test_retired_classes_are_read(tmp_path: Path) -> None:
    for sop_class in ("1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3"):
        accepted(breast_image(SOPClassUID=sop_class), tmp_path)


# -- left alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modes", "code"),
    [
        ("0002", SkipCode.M_MODE),
        ("0008", SkipCode.SPECTRAL),
        ("0011", SkipCode.DOPPLER),
        ("0101", SkipCode.DOPPLER),
        ("0201", SkipCode.ELASTOGRAPHY),
        ("0040", SkipCode.THREE_D),
    ],
)
def test_image_type_excludes(tmp_path: Path, modes: str, code: SkipCode) -> None:
    assert skipped(breast_image(ImageType=["ORIGINAL", "PRIMARY", "", modes]), tmp_path).code is code


@pytest.mark.parametrize("modes", ["0001", "0401", "", "ABCG", "12345"])
def test_image_type_never_needs_to_be_right(tmp_path: Path, modes: str) -> None:
    accepted(breast_image(ImageType=["ORIGINAL", "PRIMARY", "BREAST", modes]), tmp_path)


def test_other_classes_and_our_own_results(tmp_path: Path) -> None:
    other = breast_image(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    assert skipped(other, tmp_path).code is SkipCode.NOT_ULTRASOUND
    ours = breast_image(ImageType=["DERIVED", "SECONDARY", "SYNTHETIC", "STRAIN_ELASTO"])
    assert skipped(ours, tmp_path).code is SkipCode.OWN_RESULT


@pytest.mark.parametrize(
    ("spatial", "data", "code"),
    [
        (5, 10, SkipCode.GRAPHICS_ONLY),
        (4, 10, SkipCode.GRAPHICS_ONLY),
        (3, 3, SkipCode.SPECTRAL),
        (2, 1, SkipCode.M_MODE),
    ],
)
def test_regions_without_tissue(tmp_path: Path, spatial: int, data: int, code: SkipCode) -> None:
    ds = ultrasound(speckle(200, 200), regions=(region(0, 0, 199, 199, spatial=spatial, data=data),))
    assert skipped(ds, tmp_path).code is code


def flow(frame: Frame, share: float = 0.06) -> Frame:
    picture = np.stack([frame] * 3, axis=-1)
    rows, columns = frame.shape
    noise = np.random.default_rng(1).integers(120, 255, frame.shape, dtype=np.uint8)
    radius = int(np.sqrt(share * rows * columns / np.pi))
    y, x = np.mgrid[:rows, :columns]
    vessel = (y - rows // 2) ** 2 + (x - columns // 2) ** 2 < radius**2
    for channel, side in ((0, x < columns // 2), (2, x >= columns // 2)):
        picture[vessel & side] = 0
        picture[..., channel][vessel & side] = noise[vessel & side]
    return picture


def test_flow_is_left_alone_with_and_without_regions(tmp_path: Path) -> None:
    for regions in ((), (region(0, 0, 299, 299),)):
        skip = skipped(ultrasound(flow(speckle(300, 300)), regions=regions), tmp_path)
        assert skip.code is SkipCode.DOPPLER
        assert "% of the B-mode area is coloured" in skip.facts


def test_a_little_colour_under_a_colour_region_is_flow(tmp_path: Path) -> None:
    frame = flow(speckle(300, 300), share=0.0015)
    tissue = region(0, 0, 299, 299)
    accepted(ultrasound(frame, regions=(tissue,)), tmp_path)
    skip = skipped(ultrasound(frame, regions=(tissue, region(90, 90, 200, 200, data=2))), tmp_path)
    assert skip.code is SkipCode.DOPPLER


def elastogram(frame: Frame) -> Frame:
    strain = cv2.GaussianBlur(
        np.random.default_rng(3).normal(size=frame.shape).astype(np.float32), (0, 0), 25
    )
    strain = cv2.normalize(strain, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return (0.5 * np.stack([frame] * 3, axis=-1) + 0.5 * jet(strain)).astype(np.uint8)


def test_elastogram_beside_b_mode_is_left_alone(tmp_path: Path) -> None:
    frame = speckle(300, 300)
    dual = np.hstack([np.stack([frame] * 3, axis=-1), elastogram(frame)])
    both = (region(0, 0, 299, 299), region(300, 0, 599, 299))
    for regions in ((), both):
        assert skipped(ultrasound(dual, regions=regions), tmp_path).code is SkipCode.ELASTOGRAPHY


def test_tinted_grey_scale_is_not_called_flow(tmp_path: Path) -> None:
    frame = speckle(300, 300).astype(np.float32)
    sepia = np.stack([frame, 0.75 * frame, 0.45 * frame], axis=-1).astype(np.uint8)
    skip = skipped(ultrasound(sepia, regions=(region(0, 0, 299, 299),)), tmp_path)
    assert skip.code is SkipCode.COLOUR_OVERLAY


@pytest.mark.parametrize("level", [0, 6, 90])
def test_black_and_flat_areas_show_no_tissue(tmp_path: Path, level: int) -> None:
    ds = ultrasound(np.full((300, 300), level, np.uint8), regions=(region(0, 0, 299, 299),))
    assert skipped(ds, tmp_path).code is SkipCode.NO_SIGNAL


def test_page_of_text_has_no_b_mode(tmp_path: Path) -> None:
    page = np.zeros((480, 640), np.uint8)
    for row in range(12):
        cv2.putText(page, "LT BREAST 1.25 cm VOL 3.4 ml", (10, 40 + 36 * row), 0, 1.0, 230, 2)
    assert skipped(ultrasound(page), tmp_path).code is SkipCode.NO_BMODE


def test_thumbnails_are_too_small(tmp_path: Path) -> None:
    assert skipped(ultrasound(speckle(60, 80)), tmp_path).code is SkipCode.TOO_SMALL


def test_unreadable_pixels_are_a_coded_skip(tmp_path: Path) -> None:
    path = saved(breast_image(), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-5000])
    skip = read_image(path)
    assert isinstance(skip, Skip)
    assert skip.code is SkipCode.PIXELS_UNREADABLE
    assert "truncated" in skip.facts
    small = read_image(saved(breast_image(), path), ReadLimits(max_pixels=1000))
    assert isinstance(small, Skip)
    assert "the limit is 1000" in small.facts


def test_every_code_has_a_sentence_that_says_what_to_do() -> None:
    for code in SkipCode:
        assert code.sentence.endswith(".")
        assert Skip(code, "A fact").sentence.startswith("A fact. ")


# -- regions -------------------------------------------------------------------------------------


def findings(*regions: Dataset, rows: int = 300, columns: int = 400):  # type: ignore[no-untyped-def]
    ds = Dataset()
    ds.SequenceOfUltrasoundRegions = list(regions)
    return read_regions(ds, rows, columns)


def test_regions_outside_or_too_small_are_rejected_with_the_fact() -> None:
    found = findings(region(0, 0, 401, 100), region(0, 0, 62, 200))
    assert found.usable == ()
    assert "reaches outside the image of 400 x 300" in found.rejected[0]
    assert "under 64 pixels" in found.rejected[1]


def test_repeated_region_counts_once_and_high_priority_wins() -> None:
    low, high = region(0, 0, 399, 299, flags=1), region(10, 0, 399, 299, flags=0)
    (kept,) = findings(low, high).usable
    assert kept.box == (10, 0, 400, 300)
    assert not kept.low_priority


def test_uncalibrated_region_has_no_spacing() -> None:
    for keyword, value in (("PhysicalUnitsXDirection", 4), ("PhysicalDeltaY", 0.0), ("PhysicalDeltaX", 99.0)):
        item = region(0, 0, 399, 299)
        setattr(item, keyword, value)
        assert findings(item).usable[0].spacing_mm is None


def test_region_without_location_is_rejected() -> None:
    item = region(0, 0, 399, 299)
    del item.RegionLocationMaxX1
    assert findings(item).rejected == ("a tissue region has no location",)


# -- anything at all -----------------------------------------------------------------------------

SMALL = encoded(breast_image(64))
HEADER_BYTES = len(SMALL) - 64 * 104


PATCHES = st.lists(
    st.tuples(st.integers(0, HEADER_BYTES + 16), st.binary(min_size=1, max_size=6)), max_size=6
)


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(edits=PATCHES, cut=st.one_of(st.none(), st.integers(0, len(SMALL))))
# The explicit VR and the length of the Study Instance UID, overwritten: pydicom raises only on access then.
@example(edits=[(725, b"\0\0")], cut=None)
@example(edits=[(723, b"\0\0")], cut=None)
def test_damaged_bytes_never_raise_anything_of_their_own(
    tmp_path: Path, edits: list[tuple[int, bytes]], cut: int | None
) -> None:
    content = bytearray(SMALL)
    for at, patch in edits:
        content[at : at + len(patch)] = patch
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(content[:cut]))
    try:
        image = read_image(path)
    except NodeError as error:
        said = str(error)
    else:
        assert isinstance(image, Skip | SourceImage)
        said = image.sentence if isinstance(image, Skip) else ""
    assert "Doe" not in said


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_a_disk_that_fails_anywhere_in_the_file_is_no_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, syntax: str
) -> None:
    """A skip is for good; the disk may read the same file tomorrow."""
    ds = breast_image()
    if syntax == RLELossless:
        ds.set_original_encoding(False, True)
        ds.compress(RLELossless, generate_instance_uid=False)
    path = saved(ds, tmp_path / "a.dcm")
    reads = 0

    class FailingDisk(io.FileIO):
        def readinto(self, buffer: Any, /) -> int | None:
            nonlocal reads
            reads += 1
            if reads == failing:
                raise trouble
            return super().readinto(buffer)

    monkeypatch.setattr(io, "FileIO", FailingDisk)
    for failing in itertools.count(1):  # noqa: B007 - the disk looks at it
        reads = 0
        try:
            image = read_image(path)
        except DecodingInterrupted:
            continue
        assert isinstance(image, SourceImage)
        break
    assert failing > 2
    assert (DecodingInterrupted.permanent, DecodingInterrupted.counted) == (False, True)
