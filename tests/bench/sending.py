"""Sending results: the courier against DCMTK's dcmsend, the same files into the same Orthanc."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench.contenders import Contender, send
from bench.figures import Figure, rates
from bench.objects import STILL, Template, fresh
from courier import Courier
from peers.orthanc import Orthanc

_COUNT = 200


def measure(folder: Path, rounds: int) -> Iterator[Figure]:
    """All figures of this part."""
    times: dict[str, list[float]] = {"node": [], "dcmsend": []}
    template = Template(STILL)
    with Orthanc(folder / "orthanc") as archive:
        to = Contender("Orthanc", "PACS", archive.port, archive.pid)
        for number in range(rounds + 1):
            with fresh(folder, (template, _COUNT)) as (files,):
                theirs = send(to, files)
            with fresh(folder, (template, _COUNT)) as (files,):
                courier = Courier(folder / f"courier-{number}", {"pacs": archive.port})
                courier.add_files(files, "pacs")
                with courier:
                    started = time.perf_counter()
                    courier.wait(lambda it=courier: not it.waiting("pacs"), timeout_s=120, every_s=0.01)
                    ours = time.perf_counter() - started
                    assert set(courier.states("pacs")) == {"accepted"}
            if number:
                times["dcmsend"].append(theirs)
                times["node"].append(ours)
    yield Figure(
        f"send {_COUNT} results of 0.79 MB, every outcome recorded",
        rates(_COUNT, times["node"]),
        "objects/s",
        1.0,
        against=rates(_COUNT, times["dcmsend"]),
        peer="dcmsend",
    )
