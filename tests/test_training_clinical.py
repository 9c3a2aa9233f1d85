"""Clinical measures on maps that are drawn so that the answer is known."""

import numpy as np
import pytest

from training.scoring.clinical import eb_ratio, fat_ratio, hard_map, read, strain_ratio, tsukuba
from training.scoring.regions import lesion_box, lesion_regions

SIZE, SPACING = 200, 0.25


def disc(radius: float, centre: tuple[float, float] = (100, 100), stretch: float = 1.0) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.hypot(y - centre[0], (x - centre[1]) / stretch) <= radius


LESION = disc(24)
REGIONS = lesion_regions(LESION, SPACING)
assert REGIONS is not None


def strain_of(hard: np.ndarray, soft_level: float = 0.6, hard_level: float = 0.1) -> np.ndarray:
    return np.where(hard, hard_level, soft_level).astype(np.float32)


def test_lesion_box_has_a_margin_and_stays_inside():
    mask = np.zeros((50, 60), bool)
    mask[10:20, 55:60] = True
    assert lesion_box(mask) == (slice(8, 22), slice(54, 60))


def test_regions_are_where_they_should_be():
    distance = np.hypot(*(np.mgrid[:SIZE, :SIZE] - 100))
    assert not (REGIONS.ring & LESION).any()
    assert distance[REGIONS.ring].max() == pytest.approx(24 + 2.5 / SPACING, abs=1.5)
    assert distance[REGIONS.core].max() == pytest.approx(12, abs=1.5)
    assert (REGIONS.core | REGIONS.periphery)[LESION].all()
    # The reference lies at the lesion's depth and 4 mm away.
    rows = np.flatnonzero(REGIONS.reference.any(axis=1))
    assert (rows.min(), rows.max()) == (76, 124)
    assert distance[REGIONS.reference].min() > 24 + 4.0 / SPACING - 1.5


def test_the_largest_lesion_is_read_and_no_other_is_its_surroundings():
    other = disc(8, (100, 140))
    regions = lesion_regions(LESION | other, SPACING)
    np.testing.assert_array_equal(regions.lesion, LESION)
    assert not (regions.ring & other).any()
    assert not (regions.reference & other).any()


def test_without_a_known_scale_ring_and_gap_follow_the_lesion():
    known, unknown = lesion_regions(LESION, 7.0 / 24), lesion_regions(LESION, 0.0)
    assert unknown.ring.sum() == pytest.approx(known.ring.sum(), rel=0.05)


def test_a_lesion_that_fills_the_width_is_compared_with_what_is_above_and_below():
    band = np.zeros((SIZE, SIZE), bool)
    band[90:110] = True
    regions = lesion_regions(band, SPACING)
    assert regions.reference.sum() > band.sum()
    assert not regions.reference[80:120].any()
    assert lesion_regions(np.zeros((9, 9), bool), 1.0) is None
    assert lesion_regions(np.ones((9, 9), bool), 1.0) is None


def test_strain_ratio_is_reference_over_lesion():
    ratio = strain_ratio(strain_of(LESION, 0.6, 0.2), REGIONS)
    assert ratio.value == pytest.approx(3.0)
    assert ratio.bound == ""


def test_fat_is_the_softest_third_of_what_lies_elsewhere():
    strain = strain_of(LESION, 0.4, 0.2)
    rows = np.flatnonzero(REGIONS.elsewhere.any(axis=1))
    soft = REGIONS.elsewhere & (np.arange(len(strain))[:, None] < np.percentile(rows, 34))
    strain[soft] = 0.8
    share = soft.sum() / REGIONS.elsewhere.sum()
    assert 0.2 < share < 0.5
    wanted = 0.8 if share >= 1 / 3 else (0.8 * share + 0.4 * (1 / 3 - share)) * 3
    assert fat_ratio(strain, REGIONS).value == pytest.approx(wanted / 0.2, rel=0.02)
    assert fat_ratio(strain_of(LESION, 0.6, 0.2), REGIONS).value == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("lesion_level", "reference_level", "bound"),
    [(0.2, 1.0, ">"), (1.0, 0.5, "<"), (1.0, 1.0, "?"), (0.0, 0.5, ">"), (0.2, 0.99, "")],
)
def test_clipped_strain_gives_a_bound(lesion_level, reference_level, bound):
    assert strain_ratio(strain_of(LESION, reference_level, lesion_level), REGIONS).bound == bound


def test_four_percent_clipped_is_still_a_value():
    strain = strain_of(LESION, 0.5, 0.2)
    beside = np.flatnonzero(REGIONS.reference)
    for share, bound in ((0.04, ""), (0.06, ">")):
        clipped = strain.copy()
        clipped.flat[beside[: round(share * len(beside))]] = 1.0
        assert strain_ratio(clipped, REGIONS).bound == bound


@pytest.mark.parametrize("radius", [12, 24, 30, 36])
def test_size_on_the_elastogram_over_size_in_bmode(radius):
    hard = hard_map(strain_of(disc(radius)), REGIONS)
    assert eb_ratio(hard, REGIONS) == pytest.approx((2 * radius + 1) / 49, rel=0.03)


def test_size_is_taken_along_the_longest_diameter_in_bmode():
    wide = disc(12, stretch=2.5)  # 30 px to each side, 12 up and down
    regions = lesion_regions(wide, SPACING)
    # As tall as you like: only the extent to the sides counts.
    assert eb_ratio(disc(15), regions) == pytest.approx(31 / 61, rel=0.05)


def test_hard_areas_that_do_not_touch_or_lead_far_away_do_not_count():
    assert eb_ratio(disc(10, (100, 170)), REGIONS) == 0.0
    assert eb_ratio(np.zeros_like(LESION), REGIONS) == 0.0
    joined_with_muscle = disc(24)
    joined_with_muscle[95:105, :] = True
    assert eb_ratio(joined_with_muscle, REGIONS) == pytest.approx(2.0, abs=0.1)


MOSAIC = LESION & ((np.mgrid[:SIZE, :SIZE].sum(axis=0) // 4) % 3 == 0)


@pytest.mark.parametrize(
    ("hard", "score"),
    [
        (np.zeros_like(LESION), 1),
        (MOSAIC, 2),
        (disc(15), 3),
        (LESION, 4),
        (disc(36), 5),
    ],
    ids=["strain everywhere", "mosaic", "centre spared", "no strain in it", "nor around it"],
)
def test_tsukuba(hard, score):
    assert tsukuba(hard, REGIONS) == score
    assert read(strain_of(hard), REGIONS).tsukuba == score


def test_a_soft_lesion_is_told_from_a_hard_one():
    hard, soft = read(strain_of(LESION), REGIONS), read(strain_of(LESION, 0.3, 0.6), REGIONS)
    assert hard.contrast == pytest.approx(0.5)
    assert soft.contrast == pytest.approx(-0.3)
    assert hard.hard_share == 1.0
    assert soft.hard_share == 0.0
