"""Does a dead destination delay the others? Delivery times to Orthanc, with and without one beside it.

    python -P tests/measure/dead_destination.py [--results 60] [--rounds 4]

Runs alternate (alone, refused, alone, black hole, ...), since a machine's speed drifts. Each run is a real
courier on a fresh data folder; the time is from its start to the last confirmation by C-FIND. Half of the
runs alone are compared with the other half, which says how far two equal things differ on this machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

from courier import Courier
from dicom_node.demo.child import free_ports
from dicom_node.telemetry.log import set_up_logging
from peers.liars import DeadPort, Liar, slow
from peers.orthanc import Orthanc


def seconds(folder: Path, archive: int, dead: int | None, results: int, first: int) -> float:
    """Time until `results` results, numbered from `first`, are confirmed."""
    ports = {"archive": archive} | ({"dead": dead} if dead is not None else {})
    # The pauses that ship: a test's short ones would try the dead one far more often than a node does.
    courier = Courier(
        folder, ports, confirm="find", confirm_delay_s=0.1, breaker={}, retry={}, connect_timeout_s=10
    )
    courier.add(results, *ports, first=first)
    started = time.monotonic()
    with courier:
        courier.wait(lambda: set(courier.states()) == {"confirmed"}, timeout_s=600)
        took = time.monotonic() - started
        assert "accepted" not in courier.states("dead")[3:]
    return took


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--results", type=int, default=60)
    options.add_argument("--rounds", type=int, default=4)
    given = options.parse_args()
    set_up_logging("error", "text")
    times: dict[str, list[float]] = {}
    number = 1
    with tempfile.TemporaryDirectory() as name, DeadPort() as hole, Liar(slow(2.0)) as snail:
        folder = Path(name)
        kinds = {"refused port": free_ports(1)[0], "black hole": hole.port, "slow (2 s)": snail.port}
        with Orthanc(folder / "orthanc") as pacs:
            seconds(folder / "warm", pacs.port, None, given.results, number)
            for round_ in range(given.rounds):
                for kind, port in kinds.items():
                    for what, dead in (("alone", None), (kind, port)):
                        number += given.results
                        run = folder / f"{round_}-{kind}-{what}"
                        took = seconds(run, pacs.port, dead, given.results, number)
                        times.setdefault(what, []).append(took)
                        print(f"{what:14} {took:7.2f} s", flush=True)
    alone = statistics.median(times["alone"])
    print(f"\n{given.results} results; medians of {given.rounds} runs ({3 * given.rounds} alone)")
    for what, taken in times.items():
        took = statistics.median(taken)
        print(f"{what:14} {took:7.2f} s  {took / alone:6.3f} of the time alone")
    halves = times["alone"][::2], times["alone"][1::2]
    print(f"{'noise':14}            {statistics.median(halves[0]) / statistics.median(halves[1]):6.3f}")


if __name__ == "__main__":
    main()
