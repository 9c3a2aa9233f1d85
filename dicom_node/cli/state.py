"""status, studies: what a node has done, is doing, and cannot do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

from rich.markup import escape

from dicom_node.cli.access import permit, record_access
from dicom_node.cli.console import (
    DEFAULT_CONFIG,
    EXIT_INCOMPLETE,
    ConfigOption,
    JsonOption,
    LimitOption,
    StudyOption,
    config_or_exit,
    leave,
    marked,
    opened,
    out,
    seconds_between,
    show_json,
    show_table,
)
from dicom_node.cli.destinations import show_sentences
from dicom_node.core.access import Action
from dicom_node.core.job import JobKind
from dicom_node.dicom.services import StatusKind, status_kind
from dicom_node.store import overview, retention
from dicom_node.store.jobs import unfinished_lanes
from dicom_node.store.process import is_held
from dicom_node.supervise import Role
from dicom_node.trust.certificates import Standing


def status(
    study: StudyOption = None,
    limit: LimitOption = 50,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """Show each image's way through the node, with times: the answer to "where is my study?"."""
    from dicom_node.node.peers import certificate_expiries, certificate_problems
    from dicom_node.node.values import WORKER_SHARE, layout_of, now, posts_of, retention_of, watermarks_of

    settings = config_or_exit(config)
    who = permit(settings, Action.VIEW_STUDIES)
    with opened(layout_of(settings).database) as database, database.read() as conn:
        counts = overview.counts(conn)
        lines = overview.image_lines(conn, study=study, limit=limit)
        lanes = unfinished_lanes(conn)
        destinations = overview.destination_lines(conn, list(settings.destinations))
        kept = retention.kept(conn, retention_of(settings))
    _require_found(study, lines)
    record_access(settings, who, (line.study_instance_uid for line in lines))
    layout = layout_of(settings)
    expiring = [each for each in certificate_expiries(settings) if each.standing is not Standing.GOOD]
    unusable = certificate_problems(settings)
    running = {post.name: is_held(layout.lock(post.name)) for post in posts_of(settings)}
    free, marks = shutil.disk_usage(layout.root).free >> 20, watermarks_of(settings)
    full = [role for role in (Role.RECEIVER, Role.WORKER) if is_held(layout.full_sign(role))]
    known = set(settings.destinations)
    forsaken = sorted({lane for kind, lane in lanes if kind is not JobKind.INFER} - known)
    if json_:
        show_json(
            {
                "processes": running,
                "disk": {"free_mib": free, "refusing": [role.value for role in full]},
                "counts": counts,
                "destinations": destinations,
                "not_configured": forsaken,
                "certificates": expiring,
                "certificate_problems": unusable,
                "kept": kept,
                "images": lines,
            }
        )
        return
    out.print(
        "  ".join(
            f"{name} {'[green]running[/]' if up else '[red]NOT RUNNING[/]'}" for name, up in running.items()
        )
    )
    if Role.RECEIVER in full:
        above = marks.resume >> 20
        out.print(f"[red]refusing images: {free} MiB free, takes them again above {above} MiB[/]")
    if Role.WORKER in full:
        above = marks.lowered(WORKER_SHARE).resume >> 20
        out.print(f"[red]the model rests: {free} MiB free, goes on above {above} MiB[/]")
    show_sentences(destinations, now())
    for problem in unusable:
        out.print(f"[red]{escape(problem)}[/] (a running node keeps the certificates it had)", soft_wrap=True)
    for each in expiring:
        colour = "yellow" if each.standing is Standing.ENDS_SOON else "red"
        name = f"{each.use} ({each.path})" if each.path else each.use
        out.print(f"[{colour}]{escape(name)}: {each.words}[/]", soft_wrap=True)
    for name in forsaken:
        out.print(f"[red]destination {name} is no longer configured and has unfinished deliveries[/]")
    for what, states in counts.items():
        text = ", ".join(f"{count} {state}" for state, count in states.items())
        out.print(f"{what}: {text or ('none unfinished' if what == 'jobs' else 'none')}")
    out.print(f"local copies: {_size(kept.size_bytes)} of {_studies(kept.studies)}")
    for held in kept.held_back:
        out.print(
            f"  {_size(held.size_bytes)} of {_studies(held.studies)} cannot be purged: "
            f"[yellow]{held.reason}[/] ({held.sentence})",
            soft_wrap=True,
        )
    show_table("Images, newest last", IMAGE_COLUMNS, (row for line in lines for row in image_rows(line)))


IMAGE_COLUMNS = (
    "received",
    "from",
    "route",
    "image",
    "stage",
    "result UID, or why there is none",
    "waited s",
    "read + GAN + compose + keep s",
    "destination",
    "accepted after s",
    "confirmed after s",
)


def image_rows(line: overview.ImageLine) -> Iterator[tuple[object, ...]]:
    """One line for each result and destination of an image, or one that says why there is none."""
    head = (
        line.received_at,
        line.calling_ae_title,
        line.route,
        line.instance_number if line.instance_number is not None else f"…{line.sop_instance_uid[-8:]}",
        marked(line.stage, "purged" if line.purged_at else ""),
    )
    if not line.results:
        why = f"{line.skip_code}: {line.skip_sentence}" if line.skip_code else (line.job_error or "")
        yield (*head, why, *("-",) * 5)
    for result in line.results:
        steps = (result.steps.get(step, 0.0) for step in ("read", "infer", "compose", "keep"))
        times = " + ".join(f"{seconds:.3f}" for seconds in steps)
        for way in result.deliveries:
            warned = way.status is not None and status_kind(way.status) is StatusKind.WARNING
            words = f" ({way.words})" if warned or way.state == "parked" else ""
            # Results of an image that was sent anew, and is skipped now, are still in the archive.
            words += f"; now {line.skip_code}" if line.skip_code else ""
            yield (
                *head,
                result.sop_instance_uid,
                seconds_between(line.received_at, line.claimed_at),
                times,
                f"{way.destination}{words}",
                seconds_between(line.received_at, way.accepted_at),
                seconds_between(line.received_at, way.confirmed_at)
                + (f" by {way.confirmed_by}" if way.confirmed_by else ""),
            )


def studies(
    study: StudyOption = None,
    limit: LimitOption = 20,
    config: ConfigOption = DEFAULT_CONFIG,
    json_: JsonOption = False,
) -> None:
    """List studies, the latest first."""
    from dicom_node.node.values import layout_of, retention_of

    settings = config_or_exit(config)
    who = permit(settings, Action.VIEW_STUDIES)
    with opened(layout_of(settings).database) as database, database.read() as conn:
        lines = overview.study_lines(conn, study=study, limit=limit, policy=retention_of(settings))
    _require_found(study, lines)
    record_access(settings, who, (line.study_instance_uid for line in lines))
    if json_:
        show_json(lines)
        return
    show_table(
        "Studies",
        (
            "last image",
            "accession",
            "study",
            "state",
            "images",
            "skipped",
            "failed",
            "results",
            "confirmed",
            "parked",
            "kept",
            "cannot be purged",
        ),
        (
            (
                line.last_received_at,
                line.accession_number,
                line.study_instance_uid,
                marked(line.state),
                line.images,
                line.skipped,
                line.failed,
                line.results,
                line.confirmed,
                line.parked,
                _size(line.kept_bytes),
                line.held_back,
            )
            for line in lines
        ),
    )


def _studies(count: int) -> str:
    return f"{count} {'study' if count == 1 else 'studies'}"


def _size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _require_found(study: str | None, lines: Sequence[object]) -> None:
    """Leave with a sentence: an empty table for a mistyped number would look like an answer."""
    if study is not None and not lines:
        leave(f"no study with accession number or Study Instance UID {study} has arrived", EXIT_INCOMPLETE)
