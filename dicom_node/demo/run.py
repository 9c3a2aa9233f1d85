"""`emode demo`: a study through a real node into a real archive, and a picture of what came of it."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pydicom import dcmread
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dicom_node.config import Config, load_config
from dicom_node.demo.archive import ARCHIVE_AET, RunningArchive, start_archive
from dicom_node.demo.child import Child, free_ports
from dicom_node.demo.sheet import SheetRow, contact_sheet
from dicom_node.demo.study import DemoImage, read_study, write_demo_study
from dicom_node.dicom.reading import read_image
from dicom_node.dicom.skip import Skip
from dicom_node.network.requestor import RemoteAE
from dicom_node.network.scu import Outgoing, Sent, send
from dicom_node.node.imaging import appearance_of, read_limits_of
from dicom_node.node.models import models_of
from dicom_node.node.values import layout_of
from dicom_node.store import overview
from dicom_node.store.database import Database, open_existing_database
from dicom_node.store.overview import ImageLine
from dicom_node.work.make import Model, draw

_SCANNER = "SCANNER"
_PATIENCE_S = 300.0
_ENDS = ("skipped", "confirmed", "failed", "cancelled", "parked")

say = Console(stderr=True)


def run_demo(folder: Path, *, study: Path | None, as_json: bool) -> int:
    """Run the whole demo in `folder`; return the exit status: 0 if every image came to a good end."""
    _empty(folder)
    images = _study(folder, study)
    if not images:
        say.print(f"[red]{study} holds no DICOM instance[/]")
        return 2
    config_file = folder / "node.yaml"
    with Progress(
        TextColumn("{task.description:<44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=say,
    ) as progress:
        starting = progress.add_task("archive and node start", total=2)
        with start_archive(folder / "archive") as archive:
            progress.advance(starting)
            port = free_ports(1)[0]
            config_file.write_text(yaml.safe_dump(_configuration(archive, port)))
            config = load_config(config_file)
            node = _start_node(config_file, folder / "node.log")
            progress.advance(starting)
            try:
                started = time.monotonic()
                sent = _send(images, port, progress)
                lines = _wait(config, sent, progress)
                seconds = time.monotonic() - started
                pictures = _fetch(archive, lines)
            finally:
                node.stop()
    model = models_of(config, ["default"])["default"]
    rows = [_row(image, lines.get(image.sop_instance_uid), pictures, config, model) for image in images]
    sheet = folder / "contact-sheet.png"
    contact_sheet(rows, sheet, model.colours, _summary(model))
    _report(images, lines, sent, rows, archive, seconds, sheet, as_json=as_json)
    taken = {image.sop_instance_uid for image in images} <= set(lines)
    return 0 if taken and all(line.stage in ("confirmed", "skipped") for line in lines.values()) else 1


def _empty(folder: Path) -> None:
    """Begin anew, but never in a folder that holds something else."""
    mark = folder / "node.yaml"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        say.print(f"[red]{folder} holds files that are not a demo's; name another --folder[/]")
        raise SystemExit(2)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _study(folder: Path, study: Path | None) -> Sequence[DemoImage]:
    if study is not None:
        found = read_study(study)
        say.print(f"{study}: {len(found.images)} DICOM instance(s), {found.ignored} other file(s) left out")
        return found.images
    with say.status("simulating a breast ultrasound study (fictitious patient)"):
        return write_demo_study(folder / "study")


def _configuration(archive: RunningArchive, port: int) -> dict[str, Any]:
    return {
        "data_dir": "data",
        "listen": {"port": port},
        "peers": [{"ae_title": _SCANNER, "addresses": ["127.0.0.1"]}],
        "destinations": {
            "archive": {
                "ae_title": ARCHIVE_AET,
                "host": archive.host,
                "port": archive.port,
                "confirm_delay_s": 0.2,
            }
        },
        # Whatever somebody's own folder holds is shown to the intake gate: body parts are not filtered.
        "routes": [{"name": "demo", "destinations": ["archive"], "match": {"body_part": []}}],
        "limits": {"min_free_mib": 64},
        "equipment": {"device_serial_number": "demo"},
        "log": {"format": "json"},
    }


def _start_node(config_file: Path, log: Path) -> Child:
    command = [sys.executable, "-P", "-m", "dicom_node.cli", "serve", "--config", str(config_file)]
    node = Child(command, log)
    node.wait_until(lambda: '"node-ready"' in log.read_text(), timeout_s=120.0)
    return node


def _send(images: Sequence[DemoImage], port: int, progress: Progress) -> list[Sent]:
    """Send like a scanner would: one association, one C-STORE after the other."""
    remote = RemoteAE("node", "EMODE", "127.0.0.1", port, _SCANNER, 10.0, 60.0)
    items = [Outgoing.of(image.path) for image in images]
    bar = progress.add_task("C-STORE to the node", total=len(items))
    sent = []
    for one in send(remote, items):
        sent.append(one)
        progress.advance(bar)
    return sent


def _wait(config: Config, sent: Sequence[Sent], progress: Progress) -> dict[str, ImageLine]:
    """Wait until every image the node took has come to an end; return them by SOP Instance UID."""
    taken = {one.item.sop_instance_uid for one in sent if one.error is None}
    bar = progress.add_task("judged, inferred, delivered, confirmed", total=len(taken))
    database = open_existing_database(layout_of(config).database)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while True:
            lines = _lines(database)
            ended = sum(line.stage in _ENDS for uid, line in lines.items() if uid in taken)
            progress.update(bar, completed=ended)
            if ended == len(taken) or time.monotonic() > deadline:
                return lines
            time.sleep(0.1)
    finally:
        database.close()


def _lines(database: Database) -> dict[str, ImageLine]:
    with database.read() as conn:
        return {line.sop_instance_uid: line for line in overview.image_lines(conn, study=None, limit=100_000)}


def _fetch(archive: RunningArchive, lines: dict[str, ImageLine]) -> dict[str, NDArray[np.uint8]]:
    """The result pictures as the archive gives them back: what a radiologist's viewer would get."""
    listed = archive.sop_instance_uids()
    wanted = {result.sop_instance_uid for line in lines.values() for result in line.results} & listed
    return {uid: dcmread(io.BytesIO(archive.read(uid))).pixel_array for uid in wanted}


def _row(
    image: DemoImage,
    line: ImageLine | None,
    pictures: dict[str, NDArray[np.uint8]],
    config: Config,
    model: Model,
) -> SheetRow:
    if line is None:
        return SheetRow(image.title, None, note="not taken by the node; see the table")
    seen = read_image(image.path, read_limits_of(config))
    if isinstance(seen, Skip):
        return SheetRow(image.title, _whole_frame(image.path), note=f"{seen.code}: {seen.facts}")
    pane = seen.panes[0]
    made = [pictures[r.sop_instance_uid] for r in line.results if r.sop_instance_uid in pictures]
    if not made:
        return SheetRow(
            image.title, pane.grey, note=f"{line.stage}: {line.job_error or 'not in the archive'}"
        )
    (elastogram,) = model.predictor.predict([pane.grey])
    # The B-mode stands beside it already: of the archive's picture only the E-mode is shown here.
    x0, y0, x1, y1 = draw(pane, elastogram, model, appearance_of(config)).emode_box
    emode = made[0][y0:y1, x0:x1]
    if image.truth is None:
        return SheetRow(image.title, pane.grey, emode, note=f"{len(made)} result(s)")
    size = pane.grey.shape[::-1]
    truth = np.asarray(cv2.resize(image.truth, size, interpolation=cv2.INTER_LINEAR), np.float32)
    colours = model.colours[np.clip(np.rint(truth * 255), 0, 255).astype(np.uint8)]
    return SheetRow(image.title, pane.grey, emode, colours, _ncc(elastogram.strain, truth))


def _whole_frame(path: Path) -> NDArray[np.uint8] | None:
    """The picture of an image that was skipped, where it can be shown at all."""
    try:
        pixels = dcmread(path).pixel_array
    except (ValueError, RuntimeError, AttributeError, NotImplementedError):
        return None
    frame: NDArray[np.uint8] = pixels if pixels.ndim < 4 else pixels[len(pixels) // 2]
    return frame if frame.dtype == np.uint8 else None


def _ncc(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _summary(model: Model) -> str:
    facts = model.facts
    trained = "trained on simulated strain only" if facts.trained_on_simulation else "trained on pairs"
    return f"Bundle {facts.name} {facts.version}, {trained}, weights {facts.weights_sha256[:12]}."


def _report(
    images: Sequence[DemoImage],
    lines: dict[str, ImageLine],
    sent: Sequence[Sent],
    rows: Sequence[SheetRow],
    archive: RunningArchive,
    seconds: float,
    sheet: Path,
    *,
    as_json: bool,
) -> None:
    """The table: image, decision, result, seconds per step, delivered, confirmed."""
    facts = []
    answers = {one.item.sop_instance_uid: one.words for one in sent}
    for image, row in zip(images, rows, strict=True):
        facts += _facts(image, lines.get(image.sop_instance_uid), answers[image.sop_instance_uid], row.ncc)
    if as_json:
        sys.stdout.write(json.dumps({"archive": archive.kind, "seconds": seconds, "images": facts}, indent=2))
        sys.stdout.write("\n")
        return
    table = Table(header_style="bold", title=f"Archive: {archive.kind}", title_justify="left")
    for column in facts[0]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for fact in facts:
        table.add_row(
            *("-" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in fact.values())
        )
    screen = Console()
    (screen if screen.is_terminal else Console(width=200)).print(table)
    confirmed = sum(fact["confirmed_s"] is not None for fact in facts)
    screen.print(
        f"{confirmed} result(s) confirmed by the archive, {seconds:.1f} s from the first C-STORE to the last "
        f"confirmation.\nLook at {sheet}. Synthetic, not measured: for research only."
    )


def _facts(image: DemoImage, line: ImageLine | None, answer: str, ncc: float | None) -> list[dict[str, Any]]:
    blank: dict[str, Any] = dict.fromkeys(
        (
            "image",
            "decision",
            "result_UID",
            "wait_s",
            "read_s",
            "GAN_s",
            "compose_s",
            "keep_s",
            "delivered_s",
            "confirmed_s",
            "NCC",
        )
    )
    blank["image"] = image.title
    if line is None:
        return [blank | {"decision": answer}]
    if not line.results:
        return [blank | {"decision": line.skip_code or line.job_error or line.stage}]

    def after(moment: Any) -> float | None:
        return (moment - line.received_at).total_seconds() if moment else None

    return [
        blank
        | {
            "decision": line.stage,
            "result_UID": result.sop_instance_uid,
            "wait_s": after(line.claimed_at),
            "read_s": result.steps.get("read"),
            "GAN_s": result.steps.get("infer"),
            "compose_s": result.steps.get("compose"),
            "keep_s": result.steps.get("keep"),
            "delivered_s": after(way.accepted_at),
            "confirmed_s": after(way.confirmed_at),
            "NCC": ncc,
        }
        for result in line.results
        for way in result.deliveries
    ]
