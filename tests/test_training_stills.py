"""Stills with masks: read as the node would see them, on sides that nothing can move."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from dicom_node.dicom.skip import Skip, SkipCode
from training.errors import StillInvalid, StillsInvalid
from training.pairs.pair import Pair
from training.pairs.split import QUARTER_FOR_VALIDATION, Shares, side_of
from training.pairs.stills import Still, read_index, read_still, read_stills
from training.simulator.simulate import simulate_pair

HEADER = "image,label,near_duplicate_group,masks\n"


@pytest.fixture(scope="module")
def pair() -> Pair:
    pair = simulate_pair(3)
    assert pair.mask is not None
    return pair


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture if picture.ndim == 2 else picture[..., ::-1])
    return path


@pytest.fixture
def folder(tmp_path: Path, pair: Pair) -> Path:
    assert pair.mask is not None
    left = np.arange(pair.mask.shape[1]) < np.flatnonzero(pair.mask.any(axis=0)).mean()
    save(tmp_path / "b/one.png", pair.bmode)
    save(tmp_path / "b/one_mask.png", (pair.mask & left).astype(np.uint8) * 255)
    save(tmp_path / "b/one_mask1.png", (pair.mask & ~left).astype(np.uint8))
    save(tmp_path / "n/two.png", np.repeat(pair.bmode[..., None], 3, axis=2))
    (tmp_path / "index.csv").write_text(
        HEADER + "b/one.png,malignant,g7,one_mask.png one_mask1.png\nn/two.png,normal,g8,\n"
    )
    return tmp_path


def index(folder: Path, *lines: str) -> Path:
    (folder / "index.csv").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return folder


# -- stills --------------------------------------------------------------------------------------


def test_masks_are_united_and_lie_on_the_frame(folder, pair):
    one, two = read_stills(folder)
    np.testing.assert_array_equal(one.frame, pair.bmode)
    np.testing.assert_array_equal(one.mask, pair.mask)
    assert (one.label, one.group, one.name) == ("malignant", "g7", "b/one.png")
    # A grey still stored in three equal channels is the same still.
    np.testing.assert_array_equal(two.frame, pair.bmode)
    assert two.mask is None


def test_black_margins_are_cut_off_frame_and_mask_alike(folder, pair):
    rows, columns = pair.bmode.shape
    wide = np.zeros((rows + 150, columns + 90), np.uint8)
    wide[20 : 20 + rows, 60 : 60 + columns] = pair.bmode
    mask = np.zeros_like(wide)
    mask[20 : 20 + rows, 60 : 60 + columns] = pair.mask * 255
    save(folder / "b/one.png", wide)
    save(folder / "b/one_mask.png", mask)
    index(folder, "b/one.png,malignant,g7,one_mask.png")
    (still,) = read_stills(folder)
    # The border may lie within the 7 pixels of the window that finds speckle.
    assert np.abs(np.subtract(still.frame.shape, pair.bmode.shape)).max() <= 14
    assert still.mask is not None
    bright = still.frame[still.mask].mean()
    assert bright == pytest.approx(pair.bmode[pair.mask].mean(), abs=0.01)
    assert still.mask.sum() == pair.mask.sum()


def test_colour_flow_is_dropped_by_its_pixels_and_marks_are_not(folder, pair):
    rgb = np.repeat(pair.bmode[..., None], 3, axis=2)
    marked = rgb.copy()
    cv2.drawMarker(marked, (40, 40), (255, 255, 0), cv2.MARKER_CROSS, 9, 1)
    flow = rgb.copy()
    ramp = np.linspace(80, 255, 30).astype(np.uint8)
    flow[60:90, 60:100] = np.stack([ramp[:, None] + 0 * ramp[:1], ramp[:, None] // 3, ramp[:, None] * 0], -1)
    save(folder / "b/marked.png", marked)
    save(folder / "b/flow.png", flow)
    index(folder, "b/marked.png,normal,1,", "b/flow.png,normal,2,")
    marked_entry, flow_entry = read_index(folder)
    assert isinstance(read_still(marked_entry), Still)
    skip = read_still(flow_entry)
    assert isinstance(skip, Skip)
    assert skip.code in (SkipCode.DOPPLER, SkipCode.COLOUR_OVERLAY)
    assert [still.name for still in read_stills(folder)] == ["b/marked.png"]


def test_black_picture_is_no_still(folder):
    save(folder / "b/black.png", np.zeros((200, 200), np.uint8))
    index(folder, "b/black.png,normal,1,")
    assert list(read_stills(folder)) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER, "lists no still"),
        ("image,label,masks\nb/one.png,benign,\n", "has no column near_duplicate_group"),
        (HEADER + "b/one.png,cyst,1,\n", 'line 2: label "cyst" is not one of benign, malignant, normal'),
        (HEADER + "b/one.png,normal,,\n", "line 2: near_duplicate_group is empty"),
        (HEADER + ",normal,1,\n", 'line 2: image "" is empty'),
        (HEADER + "a.png,normal,1,\na.png,normal,2,\n", 'line 3: image "a.png" is repeated'),
        (HEADER + "a.png,normal\n", "line 2: near_duplicate_group is empty"),
    ],
)
def test_broken_index_is_named(folder, text, words):
    (folder / "index.csv").write_text(text)
    with pytest.raises(StillsInvalid, match=words):
        read_index(folder)


def test_folder_without_an_index_is_named(tmp_path):
    with pytest.raises(StillsInvalid, match=r"index\.csv cannot be read \(No such file"):
        read_index(tmp_path)
    (tmp_path / "index.csv").write_bytes(b"image\xff\xfe")
    with pytest.raises(StillsInvalid, match="not UTF-8"):
        read_index(tmp_path)


def test_broken_files_are_named(folder, pair):
    def problem(line: str) -> str:
        (entry,) = read_index(index(folder, line))
        with pytest.raises(StillInvalid) as caught:
            read_still(entry)
        return str(caught.value)

    assert "gone.png cannot be read (No such file" in problem("b/gone.png,normal,1,")
    assert "lost.png cannot be read" in problem("b/one.png,benign,1,lost.png")
    (folder / "b/text.png").write_text("not a picture")
    assert "text.png is not a picture" in problem("b/text.png,normal,1,")
    (folder / "b/none.png").write_bytes(b"")
    assert "none.png is not a picture" in problem("b/one.png,benign,1,none.png")
    save(folder / "b/small.png", np.full((9, 7), 255, np.uint8))
    assert "small.png is 7 x 9 pixels, its image" in problem("b/one.png,benign,1,small.png")
    save(folder / "b/empty.png", np.zeros(pair.bmode.shape, np.uint8))
    assert 'labelled benign, but its masks "empty.png" mark nothing' in problem(
        "b/one.png,benign,1,empty.png"
    )


# -- split ---------------------------------------------------------------------------------------


def test_sides_are_what_they_were():
    """Golden: moving a group would let a network be scored on what it learnt from."""
    validation = [k for k in range(12) if side_of(str(k)) == "validation"]
    assert validation == [1, 6, 10, 11]


def test_shares_are_met():
    sides = Counter(side_of(f"patient {k}", Shares(0.7, 0.15)) for k in range(4000))
    assert sides["training"] / 4000 == pytest.approx(0.7, abs=0.03)
    assert sides["validation"] / 4000 == pytest.approx(0.15, abs=0.03)
    assert sides["test"] / 4000 == pytest.approx(0.15, abs=0.03)


def test_two_sided_shares_leave_no_test():
    for shares in (QUARTER_FOR_VALIDATION, Shares(0.7, 0.3)):
        assert {side_of(str(k), shares) for k in range(2000)} == {"training", "validation"}


def test_more_training_never_moves_a_group_out_of_it():
    for k in range(500):
        if side_of(str(k), Shares(0.5, 0.25)) == "training":
            assert side_of(str(k), Shares(0.75, 0.25)) == "training"


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (0.8, 0.3)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="shares must be"):
        Shares(*shares)


# -- real stills ---------------------------------------------------------------------------------


@pytest.mark.real_data
def test_busi(real_data):
    entries = read_index(real_data / "busi")
    assert Counter(entry.label for entry in entries) == {"benign": 369, "malignant": 166, "normal": 111}
    # Byte 25 of a PNG is its colour type; 0 is grey.
    coloured = [entry for entry in entries if entry.image.read_bytes()[25] != 0]
    dropped = [entry.name for entry in coloured if isinstance(read_still(entry), Skip)]
    assert dropped == [f"benign/benign_{k}.png" for k in (234, 240, 255, 261, 277)]
    for entry in entries[3::40]:
        still = read_still(entry)
        assert isinstance(still, Still)
        assert (still.mask is None) == (entry.label == "normal")
    sides = Counter(side_of(entry.group) for entry in entries)
    assert 0.2 < sides["validation"] / len(entries) < 0.3
