"""Receiving: one sender, several, and one very large object."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.contenders import Contender, StartLine, receivers, send
from bench.figures import Figure, Sample, rates
from bench.objects import CINE, LARGE, LONG_CINE, SMALL, STILL, Kind, Template, fresh

_COUNTS = {LARGE: 100, SMALL: 300}
_REACH = {LARGE: 2.0, SMALL: 1.5}
_LEAST_ROUNDS = 7
"""Of what is odd now and then: the quartiles leave one on either side alone."""


def measure(folder: Path, rounds: int) -> Iterator[Figure]:
    """All figures of this part."""
    with receivers(folder) as contenders:
        for kind, count in _COUNTS.items():
            yield from _one_sender(folder, contenders, kind, count, rounds)
        yield from _crowds(folder, contenders[0], rounds)
        yield from _long_cine(folder, contenders[0], contenders[2], rounds)


def _one_sender(
    folder: Path, contenders: list[Contender], kind: Kind, count: int, rounds: int
) -> Iterator[Figure]:
    template = Template(kind)
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds + 1):
        for contender in contenders:
            with fresh(folder, (template, count)) as (files,):
                took = send(contender, files)
            if number:  # the first round warms up
                times[contender.name].append(took)
    ours = rates(count, times["node"])
    for peer, reach in (("Orthanc", _REACH[kind]), ("storescp", 0.5)):
        yield Figure(
            f"receive {count} {kind.name}, one sender",
            ours,
            "objects/s",
            reach,
            against=rates(count, times[peer]),
            peer=peer,
        )


def _crowds(folder: Path, node: Contender, rounds: int) -> Iterator[Figure]:
    """The same work shared by 1, 4 and 16 senders: stills, and a cine among every ten.

    Counted from when all call: to start, a `dcmsend` takes 16 ms of a processor, mostly for its dictionary,
    and sixteen of them half as long as for all that they send.
    """
    still, cine = Template(STILL), Template(CINE)
    times: dict[int, list[float]] = {1: [], 4: [], 16: []}
    for number in range(rounds + 1):
        for senders, taken in times.items():
            share = 160 // senders
            with fresh(folder, (still, 144), (cine, 16)) as (stills, cines):
                mixed = [cines.pop() if n % 10 == 9 else stills.pop() for n in range(160)]
                groups = [mixed[n * share : (n + 1) * share] for n in range(senders)]
                took = send(node, *groups, line=StartLine())
            if number:
                taken.append(took)
    by = {senders: rates(160, taken) for senders, taken in times.items()}
    what = "receive 144 stills and 16 cines"
    yield Figure(f"{what}, 4 senders", by[4], "objects/s", 1.3, against=by[1], peer="one sender")
    yield Figure(f"{what}, 16 senders", by[16], "objects/s", 1.0, against=by[4], peer="4 senders")


def _long_cine(folder: Path, node: Contender, plain: Contender, rounds: int) -> Iterator[Figure]:
    """One very large object, the same for both; at least seven rounds, for some are always odd.

    A disk in a virtual machine takes so many bytes at full speed, and then half as many a second for a while.
    `storescp` waits for none of them; so as few as can be are written besides.
    """
    template = Template(LONG_CINE)
    times: dict[str, list[float]] = {"node": [], "storescp": []}
    grown: list[float] = []
    for number in range(max(rounds, _LEAST_ROUNDS) + 1):
        with fresh(folder, (template, 1)) as (files,):
            for contender in (node, plain):
                before = _rss_mib(node.pids)
                with _Peak(node.pids) as peak:
                    took = send(contender, files)
                if number:
                    times[contender.name].append(took)
                    if contender is node:
                        grown.append(peak.mib - before)
    seconds = {name: Sample(tuple(values)) for name, values in times.items()}
    yield Figure(
        f"receive one {LONG_CINE.name}",
        seconds["node"],
        "s",
        2.0,
        "<=",
        against=seconds["storescp"],
        peer="storescp",
    )
    yield Figure(f"memory above idle for one {LONG_CINE.name}", Sample(tuple(grown)), "MiB", 64, "<=")


class _Peak:
    """The largest resident size of processes while the block runs, looked at every 5 ms."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.mib = 0.0

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.mib = max(self.mib, _rss_mib(self._pids))

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def _rss_mib(pids: Sequence[int]) -> float:
    kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                kib += int(line.split()[1])
    return kib / 1024
