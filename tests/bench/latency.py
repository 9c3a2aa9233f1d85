"""From the last image of a study to its result in the archive, with the whole node on this machine's CPU."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row, func, select

from bench.contenders import Contender, send
from bench.figures import Figure, Sample
from bench.objects import STILL, Template, fresh
from dicom_node.store.database import open_existing_database
from dicom_node.store.schema import deliveries, image_results, images, results, studies
from harness import Node, node_config
from model.bundle import DEFAULT_BUNDLE, read_bundle
from peers.orthanc import Orthanc
from training.scoring.speed import measure_speed

_IMAGES = 20
_NEWEST = select(func.max(studies.c.id)).scalar_subquery()
_TIMES = (
    select(images.c.received_at, deliveries.c.accepted_at, deliveries.c.confirmed_at, results.c.steps)
    .join(image_results, image_results.c.image_id == images.c.id)
    .join(results, results.c.id == image_results.c.result_id)
    .join(deliveries, deliveries.c.result_id == results.c.id)
    .where(images.c.study_id == _NEWEST)
)


def measure(folder: Path, rounds: int) -> Iterator[Figure]:
    """All figures of this part. The node's clock is read: it and this program are on one machine."""
    bare_s = _bare_network_s()
    with Orthanc(folder / "orthanc") as archive:
        config = node_config(folder / "node", {"pacs": ("PACS", archive.port)})
        config["destinations"]["pacs"]["confirm_delay_s"] = 0.0
        with Node(folder / "node", config) as node:
            yield from _studies(folder, node, rounds, bare_s)


def _bare_network_s() -> float:
    """Seconds of the generator for an image, tensor to tensor, alone on the machine.

    Not from the node's own times: its `infer` step scales and colours too, and waits for the other processes.
    """
    bundle = read_bundle(DEFAULT_BUNDLE)
    return measure_speed(bundle, side=bundle.preprocess.height).network.median / 1000


def _studies(folder: Path, node: Node, rounds: int, bare_s: float) -> Iterator[Figure]:
    template = Template(STILL)
    to = Contender("node", "EMODE", node.port, 0)
    last: list[float] = []
    whole: list[float] = []
    bound: list[float] = []
    own_ms: list[float] = []
    for number in range(rounds + 1):
        with fresh(folder, (template, _IMAGES)) as (files,):
            begun = datetime.now(UTC)
            sending_s = send(to, files)
            rows = _confirmed(node)
        if not number:
            continue
        newest = max(rows, key=lambda row: row.received_at)
        last.append((newest.accepted_at - newest.received_at).total_seconds())
        whole.append((max(row.confirmed_at for row in rows) - begun).total_seconds())
        steps: list[dict[str, float]] = [json.loads(row.steps) for row in rows]
        bound.append(max(sending_s, _IMAGES * bare_s))
        own_ms.append(1000 * (statistics.fmean(sum(step.values()) for step in steps) - bare_s))
    what = f"last of {_IMAGES} images arrived -> its result stored in Orthanc"
    yield Figure(f"{what}, p50", Sample(tuple(last)), "s", 1.0, "<=")
    p95 = sorted(last)[min(len(last) - 1, int(0.95 * len(last)))]
    yield Figure(f"{what}, p95", Sample((p95,)), "s", 2.0, "<=", note=f"of {len(last)} studies")
    yield Figure("the node's work on an image, without the network", Sample(tuple(own_ms)), "ms", 100, "<=")
    yield Figure(
        f"study of {_IMAGES} images: first sent -> last result confirmed",
        Sample(tuple(whole)),
        "s",
        1.2,
        "<=",
        against=Sample(tuple(bound)),
        peer="sending or the bare network, the longer:",
    )


def _confirmed(node: Node) -> Sequence[Row[Any]]:
    """Wait until the newest study is done; return the times of its results."""
    database = open_existing_database(node.folder / "data" / "state.sqlite")
    deadline = time.monotonic() + 120
    rows: Sequence[Row[Any]] = ()
    try:
        while time.monotonic() < deadline:
            with database.read() as conn:
                rows = conn.execute(_TIMES).all()
            if len(rows) == _IMAGES and all(row.confirmed_at for row in rows):
                return rows
            time.sleep(0.1)
    finally:
        database.close()
    raise AssertionError(
        f"after two minutes {len(rows)} of {_IMAGES} results are made, and not all confirmed"
    )
