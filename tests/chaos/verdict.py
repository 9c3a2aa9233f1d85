"""What is there after the storm, against what was promised."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pydicom

from chaos.bench import Bench
from chaos.senders import Item, Ledger, Nuisance

_LOOKED_AT = 100


@dataclass(slots=True)
class Verdict:
    """Counts that must all be zero, what they are about, and the totals beside them."""

    wrong: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, what: str, found: list[str]) -> None:
        """Note a kind of difference and the first few of it."""
        self.wrong[what] = len(found)
        if found:
            self.examples[what] = found[:10]

    @property
    def holds(self) -> bool:
        """Nothing is wrong."""
        return not any(self.wrong.values())


def unfinished(bench: Bench) -> dict[str, int]:
    """What the node itself says it still has to do."""
    ask = bench.node.ask
    found = {
        f"{kind} {state}": count
        for kind, state, count in ask(
            "SELECT kind, state, count(*) FROM jobs"
            " WHERE state IN ('held', 'waiting', 'running') GROUP BY 1, 2"
        )
    }
    found["studies not settled"] = ask("SELECT count(*) FROM studies WHERE state = 'receiving'")[0][0]
    return {what: count for what, count in found.items() if count}


def judge(bench: Bench, ledger: Ledger, nuisance: Nuisance, exit_status: int) -> Verdict:
    """Compare ledger, database, files and archives. The node has been stopped."""
    verdict = Verdict()
    ask = bench.node.ask
    _judge_database(bench, verdict)
    rows = ask("SELECT sop_instance_uid, digest, arrivals FROM images")
    images = {uid: (digest, arrivals) for uid, digest, arrivals in rows}
    results = _results_of_images(bench)
    purged = _purged_and_proven(bench)
    acknowledged = [item for item in ledger.items if item.acknowledged]
    wanted = [item for item in acknowledged if item.results]

    verdict.count(
        "acknowledged images lost",
        [i.uid for i in acknowledged if i.uid not in purged and not _is_kept(bench, images, i)],
    )
    verdict.count("images in more than one row", _repeated(bench))
    verdict.count(
        "arrivals not counted",
        [i.uid for i in acknowledged if i.uid in images and images[i.uid][1] < i.acknowledged],
    )
    verdict.count("images never acknowledged", [i.uid for i in ledger.items if not i.acknowledged])
    known = {item.uid for item in ledger.items}
    verdict.count("images nobody sent", [uid for uid in images if uid not in known | {nuisance.uid}])
    verdict.count("images refused for good", [s for s in ledger.answers if s[:3] in ("0xC", "0xA9")])
    verdict.count("results missing", [i.uid for i in wanted if len(results.get(i.uid, ())) < i.results])
    verdict.count(
        "results duplicated",
        [i.uid for i in ledger.items if len(results.get(i.uid, ())) > i.results],
    )
    _judge_archives(bench, verdict, {uid for i in wanted for uid in results.get(i.uid, ())})
    _judge_files(bench, verdict)
    verdict.count(
        "deliveries not confirmed",
        [f"{row[0]} {row[1]}" for row in ask("SELECT id, state FROM deliveries WHERE state != 'confirmed'")],
    )
    verdict.count("jobs left", [f"{what}: {n}" for what, n in unfinished(bench).items()])
    verdict.count(
        "jobs failed",
        [
            f"{r[0]} {r[1]} {r[2]}"
            for r in ask("SELECT id, kind, error_code FROM jobs WHERE state = 'failed'")
        ],
    )
    verdict.count("audit trail damaged", list(filter(None, [bench.node.verify_audit()])))
    verdict.count("supervisor left by itself", ["yes"] * bench.node.gave_up)
    verdict.count("end without status 0", [str(exit_status)] if exit_status else [])
    verdict.totals = {
        "images offered": len(ledger.items),
        "images acknowledged": len(acknowledged),
        "acknowledgements": sum(item.acknowledged for item in ledger.items),
        "results": ask("SELECT count(*) FROM results")[0][0],
        "images purged after proof": len(purged),
        "deliveries confirmed": ask("SELECT count(*) FROM deliveries WHERE state = 'confirmed'")[0][0],
        "answers other than 0000": sum(n for what, n in ledger.answers.items() if what != "0x0000"),
        "half objects and strangers": nuisance.refused + nuisance.acknowledged,
    }
    return verdict


def _judge_database(bench: Bench, verdict: Verdict) -> None:
    said = [row[0] for row in bench.node.ask("PRAGMA integrity_check")]
    broken = [str(row) for row in bench.node.ask("PRAGMA foreign_key_check")]
    verdict.count("database damaged", [*(line for line in said if line != "ok"), *broken])


def _is_kept(bench: Bench, images: dict[str, tuple[str, int]], item: Item) -> bool:
    """Is the image there, under its row, with the very pixels that were sent?"""
    if item.uid not in images:
        return False
    path = _place(bench, "source", images[item.uid][0])
    try:
        pixels = pydicom.dcmread(path).PixelData
    except (OSError, pydicom.errors.InvalidDicomError, AttributeError):
        return False
    return hashlib.sha256(pixels).hexdigest() == item.pixels


def _purged_and_proven(bench: Bench) -> set[str]:
    """Images whose files may be gone: every result is confirmed everywhere, or there was none to make."""
    return {
        row[0]
        for row in bench.node.ask(
            "SELECT sop_instance_uid FROM images i WHERE purged_at IS NOT NULL AND decision != 'pending'"
            " AND (decision = 'skipped' OR EXISTS (SELECT 1 FROM image_results WHERE image_id = i.id))"
            " AND NOT EXISTS (SELECT 1 FROM image_results x JOIN deliveries d ON d.result_id = x.result_id"
            " WHERE x.image_id = i.id AND d.state != 'confirmed')"
        )
    }


def _repeated(bench: Bench) -> list[str]:
    rows = bench.node.ask("SELECT sop_instance_uid FROM images GROUP BY 1 HAVING count(*) > 1")
    return [row[0] for row in rows]


def _results_of_images(bench: Bench) -> dict[str, list[str]]:
    """SOP Instance UID of an image -> those of its results."""
    found: dict[str, list[str]] = {}
    for image, result in bench.node.ask(
        "SELECT i.sop_instance_uid, r.sop_instance_uid FROM image_results"
        " JOIN images i ON i.id = image_id JOIN results r ON r.id = result_id"
    ):
        found.setdefault(image, []).append(result)
    return found


def _judge_archives(bench: Bench, verdict: Verdict, wanted: set[str]) -> None:
    missing, extra, twice = [], [], []
    for name, archive in bench.archives.items():
        held = Counter(archive.sop_instance_uids())
        missing += [f"{name} {uid}" for uid in wanted - held.keys()]
        extra += [f"{name} {uid}" for uid in held.keys() - wanted]
        twice += [f"{name} {uid}" for uid, count in held.items() if count > 1]
    verdict.count("results missing in an archive", missing)
    verdict.count("results in an archive that no image has", extra)
    verdict.count("results more than once in an archive", twice)
    digests = dict(bench.node.ask("SELECT sop_instance_uid, digest FROM results"))
    some = sorted(wanted)[:: 1 + len(wanted) // _LOOKED_AT]
    altered = [uid for uid in some if len(_versions(bench, uid, digests[uid])) > 1]
    verdict.count(f"results altered on the way (up to {_LOOKED_AT} looked at)", altered)


def _versions(bench: Bench, uid: str, digest: str) -> set[tuple[str, bytes]]:
    """Patient and pixels of a result, here (unless purged) and in the archives: one, if all is well."""
    held = []
    if (ours := _place(bench, "result", digest)).exists():
        held.append(pydicom.dcmread(ours))
    for archive in bench.archives.values():
        with suppress(KeyError):
            held.append(pydicom.dcmread(BytesIO(archive.file_of(uid))))
    return {(str(ds.PatientID), ds.PixelData) for ds in held}


def _judge_files(bench: Bench, verdict: Verdict) -> None:
    data = bench.node.data
    orphans, rows_without = [], []
    for kind, table in (("source", "images"), ("result", "results")):
        rows = {row[0] for row in bench.node.ask(f"SELECT digest FROM {table} WHERE purged_at IS NULL")}
        files = {path.stem: path for path in (data / kind).glob("??/*") if path.is_file()}
        orphans += [str(path.relative_to(data)) for stem, path in files.items() if stem not in rows]
        rows_without += [f"{kind} {digest}" for digest in rows - files.keys()]
        if kind == "result":
            rows_without += [
                f"altered: {stem}"
                for stem, path in files.items()
                if stem in rows and hashlib.sha256(path.read_bytes()).hexdigest() != stem
            ]
    orphans += [f"incoming/{path.name}" for path in (data / "incoming").iterdir()]
    verdict.count("orphan files", orphans)
    verdict.count("rows without their file", rows_without)


def _place(bench: Bench, kind: str, digest: str) -> Path:
    return bench.node.data / kind / digest[:2] / f"{digest}.dcm"
