"""apply, inspect: files in, files out; no network, no database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.console import (
    DEFAULT_CONFIG,
    EXIT_INCOMPLETE,
    EXIT_USAGE,
    ConfigOption,
    JsonOption,
    config_or_exit,
    leave,
    marked,
    show_json,
    show_table,
)
from dicom_node.core.errors import NodeError

if TYPE_CHECKING:
    from dicom_node.config import Config
    from dicom_node.dicom.reading import SourceImage
    from dicom_node.dicom.skip import Skip


def part10_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The DICOM files among these files and folders; what is named itself is always taken."""
    for path in paths:
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if file.is_file() and _has_prefix(file))
        else:
            yield path


def apply_model(
    files: Annotated[list[Path], typer.Argument(help="DICOM files or folders.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results.", file_okay=False)],
    bundle: Annotated[str, typer.Option(help="A bundle's name from the configuration.")] = "default",
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """Make result objects (DICOM and PNG) from files, exactly as the node would."""
    from PIL import Image

    from dicom_node.dicom.reading import read_image
    from dicom_node.dicom.results import write_result
    from dicom_node.dicom.skip import Skip
    from dicom_node.node.imaging import appearance_of, read_limits_of
    from dicom_node.node.models import models_of
    from dicom_node.node.values import now
    from dicom_node.work.make import leave_unfamiliar, make_results

    settings = config_or_exit(config)
    if bundle not in settings.bundles:
        leave(f"{bundle!r} is not a bundle; defined are: {', '.join(settings.bundles)}", EXIT_USAGE)
    appearance = appearance_of(settings)
    model = models_of(settings, [bundle])[bundle]
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for path in part10_files(files):
        try:
            image = read_image(path, read_limits_of(settings))
            if isinstance(image, Skip):
                rows.append({"file": path, "outcome": "skipped", "code": image.code, "why": image.sentence})
                continue
            elastograms = model.predictor.predict([pane.grey for pane in image.panes])
            left = leave_unfamiliar(image, elastograms, settings.inference.unfamiliar)
            if isinstance(left, Skip):
                rows.append({"file": path, "outcome": "skipped", "code": left.code, "why": left.sentence})
                continue
            image, elastograms = left
            for made in make_results(path, image, elastograms, model, appearance, created_at=now()):
                uid = made.identity.sop_instance_uid
                write_result(made.dataset, output / f"{uid}.dcm")
                Image.fromarray(made.picture.pixels).save(output / f"{uid}.png")
                rows.append(
                    {"file": path, "outcome": "done", "code": None, "why": None, "result": uid}
                    | {"familiarity": made.elastogram.familiarity, "confidence": made.elastogram.confidence}
                )
        except NodeError as error:
            rows.append({"file": path, "outcome": "failed", "code": error.code, "why": str(error)})
    if json_:
        show_json(rows)
    else:
        show_table(
            f"Results in {output}",
            ("file", "outcome", "familiarity", "confidence", "result", "why"),
            (
                (
                    r["file"],
                    marked(r["outcome"]),
                    _rounded(r.get("familiarity")),
                    _rounded(r.get("confidence")),
                    r.get("result"),
                    r["why"],
                )
                for r in rows
            ),
        )
    if any(row["outcome"] == "failed" for row in rows):
        raise typer.Exit(EXIT_INCOMPLETE)


def inspect(
    file: Annotated[Path, typer.Argument(help="A DICOM file.", exists=True, dir_okay=False)],
    called: Annotated[str, typer.Option(help="As if sent to this AE title of ours.")] = "",
    calling: Annotated[str, typer.Option(help="As if sent by this AE title.")] = "ANY",
    model: Annotated[
        bool, typer.Option("--model", help="Run the route's model as well: familiarity and confidence.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """Show what the intake gate sees in a file, what it decides, and which route would take it."""
    from dicom_node.core.image import Arrival
    from dicom_node.dicom.header import read_header
    from dicom_node.dicom.reading import read_image
    from dicom_node.dicom.skip import Skip
    from dicom_node.node.imaging import read_limits_of
    from dicom_node.node.values import routes_of
    from dicom_node.work.receive import judge_arrival

    settings = config_or_exit(config)
    routes = routes_of(settings)
    arrival = Arrival(calling, called or routes[0].called_ae_title, "offline")
    try:
        header = read_header(file)
        choice, skip = judge_arrival(routes, header, arrival)
        image = skip or read_image(file, read_limits_of(settings))
        judged: list[dict[str, float | None]] = []
        if model and choice.route and not isinstance(image, Skip):
            judged, image = _judged(settings, choice.route.bundle, image)
    except NodeError as error:
        if json_:
            show_json({"file": file, "decision": "refused", "code": error.code, "why": str(error)})
            raise typer.Exit(EXIT_INCOMPLETE) from None
        leave(error, EXIT_INCOMPLETE)
    skipped = image if isinstance(image, Skip) else None
    panes = [] if isinstance(image, Skip) else image.panes
    facts: dict[str, Any] = {
        "file": file,
        "sop_class_uid": header.sop_class_uid,
        "sop_instance_uid": header.sop_instance_uid,
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "modality": header.modality,
        "body_part": header.body_part,
        "size": f"{header.columns} x {header.rows}, {header.frames} frame(s)",
        "frame_used": None if isinstance(image, Skip) else image.frame_index,
        "called_ae_title": arrival.called_ae_title,
        "route": choice.route and choice.route.name,
        "passed_over": [f"{name}: {why}" for name, why in choice.passed_over],
        "decision": "skipped" if skipped else "accepted",
        "code": skipped and skipped.code,
        "why": skipped and skipped.sentence,
        "panes": [{"box": list(p.box), "spacing_mm": p.spacing_mm, "found_by": p.found_by} for p in panes],
    }
    if model:
        facts["judged"] = judged
    if json_:
        show_json(facts)
        return
    lines: list[tuple[str, object]] = [
        (key.replace("_", " "), value)
        for key, value in facts.items()
        if key not in ("panes", "passed_over", "judged")
    ]
    lines += [("passed over", text) for text in facts["passed_over"]]
    lines += [
        (f"B-mode pane {i}", f"x {p.box[0]}..{p.box[2]}, y {p.box[1]}..{p.box[3]}, found by {p.found_by}")
        for i, p in enumerate(panes)
    ]
    for i, said in enumerate(judged):
        lines += [(f"{key} of pane {i}", _rounded(value)) for key, value in said.items()]
    show_table("What the node sees", ("fact", "value"), lines)


def _judged(
    settings: Config, bundle: str, image: SourceImage
) -> tuple[list[dict[str, float | None]], SourceImage | Skip]:
    """What the model says of each pane, and the image as far as it would get results."""
    from dicom_node.dicom.skip import Skip
    from dicom_node.node.models import models_of
    from dicom_node.work.make import leave_unfamiliar

    model = models_of(settings, [bundle])[bundle]
    made = model.predictor.predict([pane.grey for pane in image.panes])
    left = leave_unfamiliar(image, made, settings.inference.unfamiliar)
    said = [{"familiarity": one.familiarity, "confidence": one.confidence} for one in made]
    return said, left if isinstance(left, Skip) else left[0]


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _has_prefix(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
