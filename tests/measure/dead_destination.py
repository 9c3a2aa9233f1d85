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
    # The least is what the work itself takes; the median has in it what else the machine did meanwhile.
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
    print(f"\n{given.results} results, {given.rounds} runs of each, {3 * given.rounds} alone; seconds")
    print(f"{'':14} {'least':>8} {'of alone':>8} {'median':>8} {'of alone':>8}")
    ways = (min, statistics.median)
    alone = [way(times["alone"]) for way in ways]
    for what, taken in times.items():
        cells = (f"{way(taken):8.2f} {way(taken) / base:8.3f}" for way, base in zip(ways, alone, strict=True))
        print(f"{what:14}", *cells)
    halves = times["alone"][::2], times["alone"][1::2]
    noise = (f"{'':8} {way(halves[0]) / way(halves[1]):8.3f}" for way in ways)
    print(f"{'noise':14}", *noise)


if __name__ == "__main__":
    main()
