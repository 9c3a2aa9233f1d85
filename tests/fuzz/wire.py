"""A sample of the hostile data sets over the network, into a real node; after them, an honest image."""

from __future__ import annotations

import tempfile
import time
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE

from dicom_node.demo.archive import ARCHIVE_AET, start_archive
from fuzz.datasets import MUTATIONS, Case, case
from fuzz.report import Report
from fuzz.seeds import Seed, made
from harness import Node, node_config, raw_store
from peers.still import US_IMAGE, breast_still, write

_NOT_OVER_THE_WIRE = {"preambles", "group lengths", "wrong syntax", "deflate bomb"}
"""They are about the file around the data set, which the receiver writes itself."""
_LARGEST = 64 << 20
_PAUSE_S = 0.2


def run(cases: int, seed: int, report: Report) -> None:
    """C-STORE `cases` hostile data sets; every one gets a status, and the node serves on."""
    seeds = {each.name: each for each in made() if not each.slow}
    with tempfile.TemporaryDirectory(prefix="emode-wire-") as name:
        folder = Path(name)
        with start_archive(folder / "archive", use_orthanc=False) as archive:
            config = node_config(folder / "node", {"archive": (ARCHIVE_AET, archive.port)})
            with Node(folder / "node", config) as node:
                pids = node.pids()
                for one in _sample(cases, seed, list(seeds.values())):
                    _send(one, seeds[one.seed], node, report)
                _serve(node, folder, report)
                if node.pids() != pids:
                    report.finding(f"wire, seed {seed}: a process of the node was started again")
                for line in node.log:
                    if line["level"] == "error":
                        report.finding(f"wire, seed {seed}: the node logged {line}")


def _sample(cases: int, seed: int, seeds: list[Seed]) -> list[Case]:
    found: list[Case] = []
    number = 0
    while len(found) < cases:
        one = case(number, seed, seeds)
        number += 1
        if one.mutation in MUTATIONS.keys() - _NOT_OVER_THE_WIRE and isinstance(one.content, bytes):
            # A request without a data set is no data set: that is a matter of the network's own cases.
            size = len(one.content) - next(s.dataset_at for s in seeds if s.name == one.seed)
            found += [one] if 0 < size < _LARGEST else []
    return found


def _send(one: Case, seed: Seed, node: Node, report: Report) -> None:
    assert isinstance(one.content, bytes)
    sound = dcmread(BytesIO(seed.content), stop_before_pixels=True)
    started = time.monotonic()
    status = raw_store(
        node.port,
        str(sound.SOPClassUID),
        str(sound.SOPInstanceUID),
        one.content[seed.dataset_at :],
        syntax=seed.syntax,
    )
    words = "no answer" if status is None else f"0x{status:04X}"
    report.case("over the wire", words, time.monotonic() - started)
    if status is None:
        report.finding(f"wire: case {one.number} ({one.mutation} of {one.seed}) got no answer")


def _serve(node: Node, folder: Path, report: Report) -> None:
    """An honest image after all of them: its result is in the archive."""
    honest = dcmread(write(breast_still(seed=99, study="honest"), folder / "honest.dcm"))
    ae = AE("SCANNER")
    ae.add_requested_context(US_IMAGE)
    association = ae.associate("127.0.0.1", node.port, ae_title="EMODE")
    status = association.send_c_store(honest).Status
    association.release()
    uid = honest.SOPInstanceUID
    node.wait(
        lambda: [line["stage"] for line in node.images(sop_instance_uid=uid)] == ["confirmed"],
        "the honest image is served after the hostile ones",
        timeout_s=180,
        every_s=_PAUSE_S,
    )
    report.case("honest image after them", f"0x{status:04X}, confirmed")
