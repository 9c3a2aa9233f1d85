"""A folder of screens -> pair folders, as a hospital would call it."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.pixels import convert_color_space
from typer.testing import CliRunner

from dicom_node.dicom.label import LabelSettings, compose
from dicom_node.dicom.marks import MANUFACTURER
from dicom_objects import region, saved, ultrasound
from screens_drawn import Look, draw
from training.cli.main import app
from training.errors import ScreenNotReadNow, ScreensInvalid, SettingsInvalid
from training.pairs.folder import open_folder
from training.pairs.split import Shares
from training.screens.prepare import PREPARER, SIDES, beside, finish, list_screens, plan, prepare
from training.screens.pseudonym import group_of, read_or_make_key
from training.screens.reasons import Reason, Rejection
from training.screens.screen import Screen, digest_of, read_screen
from training.screens.settings import read_site, site_of
from training.screens.tables import named_table

JET = named_table("jet")
LOOK = Look(JET, alpha=0.5, pane=(160, 170), roi=(15, 18, 150, 140))
PATIENT, NAME, FOLDER = "PID-77", "Doe^Jane", "Doe_Jane_1970"


def picture(path: Path, look: Look = LOOK) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), draw(look).rgb[..., ::-1])
    return path


def run(root: Path, out: Path, shares: Shares | None = None, **options: str) -> list:
    options = {"polarity": "soft-high", "group": r"([^/]+)/[^/]*$"} | options
    tasks = plan(root, out, site_of(**options), shares or Shares(0.5, 0.3), beside(out, ".key"))
    records = list(prepare(tasks, 1))
    finish(out, tasks, records)
    return records


def pairs_in(out: Path) -> dict[str, list[str]]:
    """The groups of the pairs in each side's folder."""
    folders = {side: open_folder(out / side) for side in SIDES}
    assert all(folder.maker == PREPARER for folder in folders.values())
    return {
        side: [folder.read(i).info["group"] for i in range(len(folder))] for side, folder in folders.items()
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Four patients with two screens each, one of them also with one that cannot be used."""
    root = tmp_path_factory.mktemp("screens")
    for patient in range(4):
        for visit in range(2):
            look = Look(JET, pane=LOOK.pane, roi=LOOK.roi, seed=10 * patient + visit)
            picture(root / f"{FOLDER}{patient}" / f"visit{visit}.png", look)
    picture(root / f"{FOLDER}0" / "bad.png", Look(JET, pane=LOOK.pane, roi=LOOK.roi, bar="none"))
    (root / f"{FOLDER}0" / "notes.txt").write_text("no screen")
    out = tmp_path_factory.mktemp("out") / "pairs"
    return root, out, run(root, out)


def test_no_patient_is_on_two_sides(prepared):
    _, out, _ = prepared
    groups = pairs_in(out)
    assert sum(map(len, groups.values())) == 8
    sides = {
        group: {side for side in SIDES if group in groups[side]} for side in SIDES for group in groups[side]
    }
    assert len(sides) == 4
    assert all(len(found) == 1 for found in sides.values())
    assert all(re.fullmatch("[0-9a-f]{16}", group) for group in sides)


def test_every_screen_is_listed(prepared):
    root, out, _ = prepared
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["no-bar"] == 1
    assert sum(manifest["counts"].values()) == 9
    assert {s["source_sha256"] for s in manifest["screens"]} == {digest_of(p) for p in root.rglob("*.png")}
    for screen in manifest["screens"]:
        if screen["reason"] is None:
            assert digest_of(out / screen["pair"]) == screen["pair_sha256"]
            assert screen["found"]["alpha"] == pytest.approx(0.5, abs=0.02)
            assert screen["found"]["quality"]["score"] > 0.8
            assert screen["settings"]["polarity"] == "soft-high"
        else:
            assert (screen["reason"], screen["pair"]) == ("no-bar", None)
            assert manifest["reasons"]["no-bar"] == Reason.NO_BAR.sentence
    for name, digest in manifest["sheets"].items():
        assert digest_of(out / name) == digest
    sheet = cv2.imread(str(out / "sheets" / "sheet-001.png"))
    assert sheet.shape[0] == 9 * 190
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000


def test_a_second_call_makes_nothing_anew_and_the_same(prepared):
    root, out, records = prepared
    before = {path: (digest_of(path), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert run(root, out) == records
    for path, (digest, written) in before.items():
        assert digest_of(path) == digest
        if path.suffix in (".npz", ".json") and path.parent.name in (*SIDES, "records"):
            assert path.stat().st_mtime_ns == written


def test_a_damaged_pair_is_made_anew_and_a_screen_that_went_takes_its_pair_along(tmp_path):
    root, out = tmp_path / "screens", tmp_path / "pairs"
    keep, leave = picture(root / "a" / "1.png"), picture(root / "b" / "1.png", Look(JET, seed=5))
    first = run(root, out)
    assert [record.reason for record in first] == [None, None]
    damaged = out / first[0].pair
    damaged.write_bytes(b"cut short")
    leave.unlink()
    assert run(root, out) == [first[0]]
    assert digest_of(damaged) == first[0].pair_sha256
    assert [path for side in SIDES for path in (out / side).glob("*.npz")] == [damaged]
    assert keep.exists()
    assert len(json.loads((out / "manifest.json").read_text())["screens"]) == 1


def test_other_settings_make_other_pairs(tmp_path):
    root, out = tmp_path / "screens", tmp_path / "pairs"
    picture(root / "a" / "1.png")
    soft = run(root, out, Shares(1.0, 0.0))
    strain = open_folder(out / "training").read(0).strain
    hard = run(root, out, Shares(0.0, 1.0), polarity="hard-high")
    assert (soft[0].side, hard[0].side) == ("training", "validation")
    assert len(open_folder(out / "training")) == 0  # moved, not copied
    turned = open_folder(out / "validation").read(0).strain
    assert np.abs(strain + turned - 1).mean() < 0.01


def test_the_same_screen_twice_is_one_pair(tmp_path):
    root, out = tmp_path / "screens", tmp_path / "pairs"
    picture(root / "a" / "1.png")
    picture(root / "a" / "copy.png")
    run(root, out)
    screens = json.loads((out / "manifest.json").read_text())["screens"]
    assert [screen["copies"] for screen in screens] == [2]


def dicom(
    path: Path, look: Look = LOOK, *, regions: bool = True, ybr: bool = False, **attributes: object
) -> Path:
    drawn = draw(look)
    rgb = convert_color_space(drawn.rgb, "RGB", "YBR_FULL") if ybr else drawn.rgb
    if ybr:
        attributes["PhotometricInterpretation"] = "YBR_FULL"
    listed = ()
    if regions:
        boxes = [(drawn.clean, 1), (drawn.coloured, 1), *([(drawn.bar, 0xE)] if drawn.bar else [])]
        listed = tuple(
            region(x0, y0, x1 - 1, y1 - 1, data=data, delta_cm=0.008) for (x0, y0, x1, y1), data in boxes
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return saved(ultrasound(rgb, regions=listed, **attributes), path)


@pytest.mark.parametrize(("regions", "ybr"), [(True, False), (False, True)])
def test_dicom_with_and_without_regions(tmp_path, regions, ybr):
    root, out = tmp_path / "screens", tmp_path / "pairs"
    dicom(root / "one", regions=regions, ybr=ybr)
    (record,) = run(root, out, group="patient")
    assert record.reason is None
    found = "regions" if regions else "content"
    assert (record.found["panes"]["found_by"], record.found["bar"]["found_by"]) == (found, found)
    pair = open_folder(out / record.side).read(0)
    # region() gives rows twice the spacing of columns: pairs have square pixels.
    assert pair.spacing_mm == (pytest.approx(0.08) if regions else 0.0)
    x0, y0, x1, y1 = record.found["roi"]
    assert pair.strain.shape == ((y1 - y0) * (2 if regions else 1), x1 - x0)
    drawn = draw(LOOK)
    dx, dy = (record.found["panes"]["bmode"][i] - drawn.clean[i] for i in (0, 1))
    truth = drawn.strain[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    shrunk = cv2.resize(pair.strain, truth.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk - truth).mean() < 0.006


def test_regions_that_lie_are_not_believed(tmp_path):
    drawn = draw(LOOK)
    x0, y0, x1, y1 = drawn.clean
    lying = tuple(region(x0 + d, y0 + 9, x1 + d - 1, y1 + 8) for d in (-20, 210))
    screen = read_screen(saved(ultrasound(drawn.rgb, regions=lying), tmp_path / "one.dcm"))
    assert len(screen.tissue) == 2
    (record,) = run_one(tmp_path / "one.dcm", tmp_path)
    assert record.found["panes"]["found_by"] == "content"
    assert record.reason is None


def run_one(path: Path, tmp_path: Path) -> list:
    root = tmp_path / "alone"
    root.mkdir()
    path.rename(root / path.name)
    return run(root, tmp_path / "pairs", group="patient")


def test_opaque_overlay_over_the_whole_pane_is_found_by_regions(tmp_path):
    dicom(tmp_path / "a" / "1.dcm", Look(JET, alpha=1.0, roi=None, marks=False))
    dicom(tmp_path / "a" / "2.dcm", Look(JET, alpha=1.0, roi=None, marks=False, seed=2), regions=False)
    with_regions, without = run(tmp_path / "a", tmp_path / "pairs", group="patient")
    assert with_regions.reason is None
    assert with_regions.found["quality"]["correlation"] is None
    assert without.reason == "no-panes"


def test_synthetic_images_are_not_learnt_from(tmp_path):
    drawn = draw(LOOK)
    ours = dicom(tmp_path / "1.dcm", Manufacturer=MANUFACTURER)
    others = dicom(tmp_path / "2.dcm", ImageType=["DERIVED", "SECONDARY"], SyntheticData="YES")
    x0, y0, x1, y1 = drawn.coloured
    sheet = compose(drawn.bmode, np.ascontiguousarray(drawn.rgb[y0:y1, x0:x1]), JET, LabelSettings())
    cv2.imwrite(str(tmp_path / "3.png"), np.ascontiguousarray(sheet.pixels[..., ::-1]))
    for path in (ours, others, tmp_path / "3.png"):
        found = read_screen(path)
        assert isinstance(found, Rejection)
        assert found.reason is Reason.SYNTHETIC


def test_unreadable_files_are_listed(tmp_path):
    root = tmp_path / "screens"
    picture(root / "a" / "1.png")
    (root / "a" / "2.png").write_bytes(b"\x89PNG cut short")
    (root / "a" / "3").write_bytes(b"\0" * 128 + b"DICM" + b"garbage")
    records = run(root, tmp_path / "pairs")
    assert [record.reason for record in records] == [None, "unreadable", "unreadable"]


def test_a_disk_that_fails_is_not_the_screens_fault(tmp_path, monkeypatch):
    picture(tmp_path / "screens" / "a" / "1.png")

    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("training.screens.prepare.read_screen", fails)
    with pytest.raises(ScreenNotReadNow) as raised:
        run(tmp_path / "screens", tmp_path / "pairs")
    assert str(tmp_path) not in str(raised.value)
    monkeypatch.undo()
    assert run(tmp_path / "screens", tmp_path / "pairs")[0].reason is None


def test_dicom_without_patient_is_left_out(tmp_path):
    dicom(tmp_path / "a" / "1.dcm", PatientID="")
    (record,) = run(tmp_path / "a", tmp_path / "pairs", group="patient")
    assert (record.reason, record.pair) == ("no-group", None)


def test_nothing_of_the_patient_is_in_the_output(tmp_path):
    root, out = tmp_path / "screens", tmp_path / "pairs"
    dicom(root / FOLDER / f"{FOLDER}.dcm")
    picture(root / FOLDER / f"{FOLDER}.png", Look(JET, seed=4))
    dicom(root / FOLDER / "none.dcm", Look(JET, seed=3, bar="none"), PatientID="")
    (root / FOLDER / "screens.yaml").write_text("group: patient\n")
    run(root, out)
    (root / FOLDER / "screens.yaml").write_text("group: '([^/]+)/'\n")
    run(root, out)
    secrets = [PATIENT, NAME, "Doe", "Jane", FOLDER, "19700102", "A-5", str(tmp_path)]
    for path in out.rglob("*"):
        where = str(path.relative_to(out))
        data = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".npz":
            with np.load(path) as stored:
                data += b"".join(stored[name].tobytes() + str(stored[name]).encode() for name in stored)
        for secret in secrets:
            assert secret not in where
            assert secret.encode() not in data, (secret, where)
    for ending in (".key", ".sources.csv"):
        assert beside(out, ending).stat().st_mode & 0o077 == 0
    assert FOLDER in beside(out, ".sources.csv").read_text()


def test_groups_are_keyed_and_their_rules_do_not_part_a_patient(tmp_path):
    one, other = (read_or_make_key(tmp_path / name) for name in ("one.key", "other.key"))
    assert read_or_make_key(tmp_path / "one.key") == one != other
    assert (tmp_path / "one.key").stat().st_mode & 0o777 == 0o600
    visits = [Path("patient7/visit1/a.png"), Path("patient7/visit2/b.png")]
    assert len({group_of(one, "folder", path, "") for path in visits}) == 1
    assert group_of(one, "folder", visits[0], "") != group_of(other, "folder", visits[0], "")
    assert group_of(one, "folder", Path("a.png"), "") is None
    assert group_of(one, r"patient(\d+)", visits[0], "") == group_of(one, r"patient(\d+)", visits[1], "")
    assert group_of(one, "patient", visits[0], "7") != group_of(one, r"patient(\d+)", visits[0], "")
    assert group_of(one, "patient", visits[0], "") is None
    (tmp_path / "one.key").chmod(0o644)
    with pytest.raises(SettingsInvalid, match="chmod 600"):
        read_or_make_key(tmp_path / "one.key")
    (tmp_path / "short.key").write_text("abc")
    (tmp_path / "short.key").chmod(0o600)
    with pytest.raises(SettingsInvalid, match="shorter"):
        read_or_make_key(tmp_path / "short.key")


def test_folders_settings_win_over_options(tmp_path):
    root, out = tmp_path / "screens", tmp_path / "pairs"
    picture(root / "a" / "1.png")
    picture(root / "b" / "deep" / "1.png")
    (root / "b" / "screens.yaml").write_text("polarity: hard-high\nlut: jet\nspacing_mm: 0.1\n")
    tasks = plan(root, out, site_of(polarity="soft-high", group="folder"), Shares(1, 0), tmp_path / "key")
    a, b = (task.settings for task in tasks)
    assert (a.reading.polarity, a.reading.lut, a.spacing_mm) == ("soft-high", "bar", 0.0)
    assert (b.reading.polarity, b.reading.lut, b.spacing_mm, b.group) == ("hard-high", "jet", 0.1, "folder")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("polarity: red-soft", "polarity"),
        ("colour: jet", "colour: Extra"),
        ("lut: parula", "jet-reversed"),
        ("group: '[a'", "no regular expression"),
        ("group: name", "no .group. to take"),
        ("[1", "is not YAML"),
    ],
)
def test_wrong_settings_name_what_is_wrong(tmp_path, text, says):
    (tmp_path / "screens.yaml").write_text(text)
    with pytest.raises(SettingsInvalid, match=says):
        read_site(tmp_path / "screens.yaml")


def test_polarity_is_never_assumed(tmp_path):
    picture(tmp_path / "screens" / "1.png")
    with pytest.raises(SettingsInvalid, match=r"--polarity soft-high .* or hard-high"):
        plan(tmp_path / "screens", tmp_path / "out", site_of(), Shares(1, 0), tmp_path / "key")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_screens_is_told(tmp_path):
    with pytest.raises(ScreensInvalid, match="holds no PNG"):
        list_screens(tmp_path)
    with pytest.raises(ScreensInvalid, match="is not a folder"):
        list_screens(tmp_path / "none")


def test_command(tmp_path):
    root, out = tmp_path / "screens", tmp_path / "pairs"
    picture(root / "a" / "1.png")
    picture(root / "b" / "1.png", Look(JET, pane=LOOK.pane, roi=LOOK.roi, bar="none"))
    arguments = ["prepare", str(root), "--out", str(out), "--polarity", "soft-high", "--group", "folder"]
    result = CliRunner().invoke(app, [*arguments, "--processes", "1", "--shares", "1", "0"])
    assert result.exit_code == 0, result.output
    assert "no-bar" in result.output
    assert len(open_folder(out / "training")) == 1
    assert isinstance(read_screen(root / "a" / "1.png"), Screen)
    refused = CliRunner().invoke(app, [*arguments, "--shares", "0.9", "0.9"])
    assert refused.exit_code == 2
