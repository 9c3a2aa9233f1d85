"""Images that eat the worker's memory or its time: parked with words that say so, and the rest goes on."""

import numpy as np
import pytest

from harness import Node, node_config
from peers.dcmtk import storescu
from peers.still import breast_still, write

pytestmark = [pytest.mark.peers, pytest.mark.slow]


def large(folder, times):
    """An honest file of 0.56 megapixels times a square; 36 take some 800 MiB and two seconds to judge."""
    grain = np.random.default_rng(1).rayleigh(40, (750, 750)).clip(0, 255).astype(np.uint8)
    pixels = np.kron(grain, np.ones((times, times), np.uint8))
    return write(breast_still(pixels=pixels, instance_number=99), folder / "large.dcm")


@pytest.mark.parametrize(
    ("times", "inference", "action", "words"),
    [
        (8, {"memory_mib": 900}, "role-too-large", "its process was killed for holding"),
        # The large one takes more than two seconds where nothing else runs, a small one a tenth of one.
        (10, {"time_limit_s": 1}, "process-left", "its process ended itself: a step hung"),
    ],
)
def test_an_image_that_eats_the_worker_is_parked_and_the_rest_goes_on(
    storescp, tmp_path, times, inference, action, words
):
    pacs = storescp("PACS")
    config = node_config(
        tmp_path,
        {"archive": ("PACS", pacs.port)},
        inference={"max_attempts": 2, "batch_size": 4, "device": "cpu"} | inference,
    )
    config["destinations"]["archive"]["confirm"] = "none"
    with Node(tmp_path, config) as node:
        small = [write(breast_still(seed=n, instance_number=n), tmp_path / f"{n}.dcm") for n in range(3)]
        storescu([large(tmp_path, times), *small], "127.0.0.1", node.port, aec="EMODE")
        lines = node.wait_for_stage(4, "failed", "accepted", timeout_s=200)
        assert [line["stage"] for line in lines] == ["failed", "accepted", "accepted", "accepted"]
        assert f"attempt 2 of 2 never reported an end: {words}" in lines[0]["job_error"]
        assert len(node.events(action)) == 2
        assert len(pacs.wait_for(3)) == 3
