"""A folder of screens -> folders of pairs for training, validation and test, with a manifest of every screen.

    OUT/training, OUT/validation, OUT/test   pair folders
    OUT/manifest.json                        every screen by the SHA-256 of its file: what was found, the pair
                                             and its digest, or the coded reason why there is none
    OUT/sheets/                              pictures of what was found, for a person to look through
    OUT/records/                             one file for each screen, from which a second call goes on

No name, number, path or date of a patient comes into OUT. Beside it, for the site alone: OUT.key, the secret
behind the pseudonyms, and OUT.sources.csv, which digest is which file.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePath

import cv2
import numpy as np

from dicom_node.core.errors import NodeError
from training.errors import ScreenNotReadNow, ScreensInvalid
from training.pairs.folder import Maker, open_or_create, write_pair
from training.pairs.pair import Pair
from training.pairs.processes import in_processes
from training.pairs.split import Shares, side_of
from training.replacing import replacing
from training.screens.dual import Found, read_dual_view
from training.screens.pseudonym import group_of, read_or_make_key
from training.screens.reasons import Reason, Rejection
from training.screens.record import Record, key_of, read_record, write_record
from training.screens.screen import Screen, digest_of, is_screen, read_screen
from training.screens.settings import FILE, Settings, Site, settings_by_folder
from training.screens.sheet import strip_of, write_picture, write_sheets

PREPARER = Maker("prepare", 1, simulated=False)
SIDES = ("training", "validation", "test")
SHARES = Shares(training=0.66, validation=0.265)
"""Of groups; the rest is for the test, as the 882, 354 and 100 sets of
10.3877/cma.j.issn.1672-6448.2024.06.003."""
NOTE = "Strain index read off the colour of dual-view screens: relative to each frame, without a unit."
_SQUARE = 0.02
"""Difference of row and column spacing up to which pixels count as square."""


@dataclass(frozen=True)
class Task:
    """One screen to read."""

    path: Path
    below: PurePath
    """The path below the folder of screens."""
    out: Path
    settings: Settings
    shares: Shares
    key: bytes


def list_screens(root: Path) -> tuple[Path, ...]:
    """Return the pictures and DICOM files of a folder and of those below it; ScreensInvalid if none."""
    if not root.is_dir():
        raise ScreensInvalid(f"{root} is not a folder; give the folder that holds the screens")
    files = sorted(
        p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != FILE
    )
    screens = tuple(path for path in files if is_screen(path))
    if not screens:
        raise ScreensInvalid(f"{root} holds no PNG, JPEG, BMP, TIFF or DICOM file")
    return screens


def plan(root: Path, out: Path, site: Site, shares: Shares, key_file: Path) -> tuple[Task, ...]:
    """Settle everything that decides before the first screen is read, so that mistakes show at once."""
    screens = list_screens(root)
    settings = settings_by_folder(root, {path.parent for path in screens}, site)
    key = read_or_make_key(key_file)
    for side in SIDES:
        open_or_create(out / side, PREPARER, NOTE)
    (out / "records").mkdir(exist_ok=True)
    return tuple(
        Task(path, PurePath(path.relative_to(root)), out, settings[path.parent], shares, key)
        for path in screens
    )


def prepare(tasks: Sequence[Task], processes: int | None = None) -> Iterator[Record]:
    """Yield the record of each screen as it is stored, in order; what is there already costs a digest."""
    return in_processes(prepare_one, tasks, processes)


def finish(out: Path, tasks: Sequence[Task], records: Sequence[Record]) -> int:
    """Write manifest, sheets and the list of sources; take out what belongs to no screen any more.

    Returns how many screens of an earlier call were taken out: a patient who withdraws is gone for good.
    """
    unique = {record.source_sha256: record for record in records}
    ordered = [unique[digest] for digest in sorted(unique)]
    gone = _without_source(out, {record.key for record in ordered})
    strips = [path for record in ordered if (path := _strip_path(out, record.key)).exists()]
    sheets = write_sheets(out / "sheets", strips)
    copies = dict.fromkeys(unique, 0)
    for record in records:
        copies[record.source_sha256] += 1
    manifest = {
        "format": "emode-prepared",
        "version": 1,
        "tool": {"emode": version("emode"), "prepare": PREPARER.version},
        "note": NOTE,
        "shares": asdict(tasks[0].shares),
        "counts": _counts(ordered),
        "reasons": {reason.value: reason.sentence for reason in Reason},
        "screens": [asdict(record) | {"copies": copies[record.source_sha256]} for record in ordered],
        "sheets": {str(path.relative_to(out)): digest_of(path) for path in sheets},
    }
    with replacing(out / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=1, sort_keys=True).encode())
    _write_sources(beside(out, ".sources.csv"), tasks, records)
    return gone


def beside(out: Path, ending: str) -> Path:
    """Return a file of the site's own beside the output folder, which does not travel with it."""
    return out.resolve().with_name(out.resolve().name + ending)


def prepare_one(task: Task) -> Record:
    """Read one screen and store its pair, strip and record. Runs in a worker process."""
    cv2.setNumThreads(1)
    digest = digest_of(task.path)
    settings = _settings_digest(task)
    known = read_record(_record_path(task.out, digest))
    if known is not None and known.settings_sha256 == settings and _is_whole(task.out, known):
        return known
    try:
        screen = read_screen(task.path)
    except (NodeError, OSError, MemoryError) as error:
        raise ScreenNotReadNow(f"{key_of(digest)}: {type(error).__name__}") from None
    if isinstance(screen, Rejection):
        return _store(
            task, digest, settings, Screen(np.zeros((6, 6, 3), np.uint8)), None, Found(rejection=screen)
        )
    group = group_of(task.key, task.settings.group, task.below, screen.patient)
    if group is None:
        nobody = Rejection(Reason.NO_GROUP, f'by the rule "{_rule(task)}"')
        return _store(task, digest, settings, screen, None, Found(rejection=nobody))
    found = read_dual_view(screen.rgb, task.settings.reading, screen.tissue, screen.bars)
    return _store(task, digest, settings, screen, group, found)


def pair_of(found: Found, screen: Screen, settings: Settings, group: str, digest: str) -> Pair:
    """Make the pair of what was found, on square pixels."""
    assert found.bmode is not None
    assert found.strain is not None
    assert found.panes is not None
    assert found.quality is not None
    bmode, strain = found.bmode, found.strain
    spacing = settings.spacing_mm
    calibrated = screen.spacing_mm(found.panes.clean)
    if calibrated is not None:
        rows_mm, columns_mm = calibrated
        spacing = min(calibrated)
        if abs(rows_mm - columns_mm) > _SQUARE * spacing:
            size = (round(bmode.shape[1] * columns_mm / spacing), round(bmode.shape[0] * rows_mm / spacing))
            bmode = np.asarray(cv2.resize(bmode, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
            strain = np.asarray(cv2.resize(strain, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    info = {
        "kind": "screen",
        "group": group,
        "source_sha256": digest,
        "quality": round(found.quality.score, 4),
    }
    return Pair(np.ascontiguousarray(bmode), np.ascontiguousarray(strain), None, spacing, info)


def _store(task: Task, digest: str, settings: str, screen: Screen, group: str | None, found: Found) -> Record:
    out, key = task.out, key_of(digest)
    for side in SIDES:
        (out / side / f"pair-{key}.npz").unlink(missing_ok=True)
    rejection = found.rejection
    record = Record(
        source_sha256=digest,
        settings_sha256=settings,
        group=group,
        side=side_of(group, task.shares) if group is not None else None,
        pair=None,
        pair_sha256=None,
        reason=rejection.reason.value if rejection is not None else None,
        fact=rejection.fact if rejection is not None else None,
        found=found.to_json(),
        settings=task.settings.to_json(),
    )
    verdict = f"rejected: {record.reason} ({record.fact})"
    if rejection is None and group is not None:
        name = f"{record.side}/pair-{key}.npz"
        write_pair(out / name, pair_of(found, screen, task.settings, group, digest))
        record = replace(record, pair=name, pair_sha256=digest_of(out / name))
        verdict = f"{record.side}, quality {record.found['quality']['score']}, alpha {record.found['alpha']}"
    write_picture(_strip_path(out, key), strip_of(found, screen.rgb, key, verdict))
    write_record(_record_path(out, digest), record)
    return record


def _settings_digest(task: Task) -> str:
    """Digest of all that decides besides the file; of key and path no more than pseudonyms."""
    by_path = group_of(task.key, task.settings.group, task.below, patient="")
    patient = group_of(task.key, "patient", PurePath(), patient="-")
    decides = [PREPARER.version, repr(task.settings), repr(task.shares), by_path, patient]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _rule(task: Task) -> str:
    rule = task.settings.group
    return rule if rule in ("patient", "folder") else "regular expression"


def _is_whole(out: Path, record: Record) -> bool:
    if not _strip_path(out, record.key).exists():
        return False
    return record.pair is None or (
        (out / record.pair).exists() and digest_of(out / record.pair) == record.pair_sha256
    )


def _record_path(out: Path, digest: str) -> Path:
    return out / "records" / f"{key_of(digest)}.json"


def _strip_path(out: Path, key: str) -> Path:
    return out / "records" / f"{key}.png"


def _without_source(out: Path, keys: set[str]) -> int:
    """Remove pairs, records and strips of screens that are no longer among the sources."""
    stale = {path.stem for path in (out / "records").glob("*.json")} - keys
    for key in stale:
        for side in SIDES:
            (out / side / f"pair-{key}.npz").unlink(missing_ok=True)
        _strip_path(out, key).unlink(missing_ok=True)
        (out / "records" / f"{key}.json").unlink(missing_ok=True)
    return len(stale)


def _counts(records: Sequence[Record]) -> dict[str, int]:
    names = [record.side if record.reason is None else record.reason for record in records]
    return {str(name): names.count(name) for name in sorted({str(n) for n in names})}


def _write_sources(path: Path, tasks: Sequence[Task], records: Sequence[Record]) -> None:
    """Write which digest is which file, readable by its owner alone: paths may name patients."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["key", "reason", "file"])
    for task, record in zip(tasks, records, strict=True):
        rows.writerow([record.key, record.reason or "", task.path])
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text.getvalue())
