"""Conversations that go wrong, thousands of them, with a real receiver, and an honest sender in between.

A case is a good conversation (association, C-ECHO, C-STORE, release) that is mutated by a generator seeded
with the campaign's seed and the case's number. What must hold: each connection is closed in time, the
process lives, its log has no error that was not foreseen, honest objects are always taken, every object
answered 0000 is in the database, and memory, threads and descriptors come back.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.dicom.part10 import dataset_offset
from fuzz.report import Report
from harness import Receiver, node_config
from peers import rude
from peers.rude import Peer, Process
from peers.still import breast_still, write

_AT_ONCE = 4
_HANG_S = 30.0
_ANSWER_S = 0.5
_LISTEN_S = 0.05
_HONEST_EVERY_S = 0.5
_WARM = 500
_GROWTH_MIB = 20.0
"""What the receiver may grow by between case 500 and the last, however many there are."""

_UNFORESEEN = ("unforeseen", "object-failed", "connection-failed", "admission-failed")
_OLD_UID = "2.25." + "1" * 39


@dataclass
class _Campaign:
    port: int
    seed: int
    data_set: bytes
    report: Report
    acknowledged: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def object(self, rng: random.Random) -> tuple[str, bytes]:
        """An object of its own."""
        uid = "2.25." + str(rng.randrange(10**38, 10**39))
        return uid, self.data_set.replace(_OLD_UID.encode(), uid.encode())

    def finding(self, words: str) -> None:
        with self.lock:
            self.report.finding(f"network, seed {self.seed}: {words}")


def run(cases: int, seed: int, report: Report, *, visits: int = 5000) -> None:
    """Run so many cases, then so many health-check style associations; what must not happen is a finding."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listen = {"port": 0, "idle_timeout_s": 5, "request_timeout_s": 5}
        receiver = Receiver(folder, node_config(folder, {"archive": ("PACS", 4242)}, listen=listen))
        try:
            _run(receiver, cases, seed, report, visits)
        finally:
            receiver.stop()


def _run(receiver: Receiver, cases: int, seed: int, report: Report, visits: int) -> None:
    campaign = _Campaign(receiver.port, seed, _small_data_set(receiver.node.folder), report)
    process = Process(receiver.process.pid)
    _visit(campaign, random.Random(seed))
    # Each association at once may leave a pooled connection to the database behind: three files.
    threads, descriptors = process.threads, process.descriptors + 3 * (_AT_ONCE + 1)
    stop = threading.Event()
    honest = threading.Thread(target=_honest, args=(campaign, stop))
    honest.start()
    warm_mib = 0.0
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for first in range(0, cases, _WARM):
                numbers = range(first, min(cases, first + _WARM))
                list(pool.map(lambda number: _case(campaign, number), numbers))
                warm_mib = warm_mib or process.rss_mib
            share = -(-visits // _AT_ONCE)
            list(pool.map(lambda each: rude.visits(campaign.port, share, each), range(_AT_ONCE)))
            report.case("(health checks)", f"{share * _AT_ONCE} associations")
    finally:
        stop.set()
        honest.join()
    if receiver.process.poll() is not None:
        campaign.finding(f"the receiver ended with {receiver.process.poll()}")
        return
    if not process.settles(threads=threads, descriptors=descriptors):
        campaign.finding(
            f"{process.threads} threads and {process.descriptors} descriptors at the end; "
            f"{threads} and {descriptors} at the beginning"
        )
    grown = process.rss_mib - warm_mib
    _say(
        f"RSS {warm_mib:.1f} MiB after {min(cases, _WARM)} cases, {grown:+.1f} MiB after {cases} cases "
        f"and {visits} health checks"
    )
    if grown > _GROWTH_MIB:
        campaign.finding(f"RSS grew by {grown:.1f} MiB")
    _look_at_log(campaign, receiver.log)
    _look_for_lost(campaign, receiver)


# -- one case -----------------------------------------------------------------------------------


def _case(campaign: _Campaign, number: int) -> None:
    rng = random.Random(f"{campaign.seed}/{number}")
    name = rng.choice(sorted(_MUTATIONS))
    started = time.monotonic()
    try:
        outcome = _MUTATIONS[name](campaign, rng)
    except TimeoutError:
        outcome = "hang"
        campaign.finding(f"case {number} ({name}) was neither answered nor closed in {_HANG_S:.0f} s")
    except OSError as error:
        outcome = type(error).__name__
        if isinstance(error, ConnectionRefusedError):
            campaign.finding(f"case {number} ({name}): nobody listens")
    with campaign.lock:
        campaign.report.case(name, outcome, time.monotonic() - started)


def _good(campaign: _Campaign, rng: random.Random) -> list[bytes]:
    uid, data_set = campaign.object(rng)
    return [
        rude.associate(),
        rude.echo(1),
        *rude.store(uid, data_set, 2, piece=rng.choice((700, 2000, 16000))),
        rude.RELEASE,
    ]


def _talk(campaign: _Campaign, pdus: list[bytes], rng: random.Random) -> str:
    """Ask for the association, wait for the answer, say all the rest, wait for the end; how it came."""
    with Peer(campaign.port, timeout_s=_HANG_S) as peer:
        peer.send(pdus[0])
        heard = _first_answer(peer)
        if rng.random() < 0.5:
            peer.send(b"".join(pdus[1:]))
        else:
            for each in pdus[1:]:
                peer.send(each)
        return _end_of(campaign, peer, heard)


def _first_answer(peer: Peer) -> list[tuple[int, bytes]]:
    """The answer to the request; none soon may mean that the other side waits for more."""
    peer.socket.settimeout(_ANSWER_S)
    try:
        answer = peer.read()
    except TimeoutError:
        return []
    finally:
        peer.socket.settimeout(_HANG_S)
    return [] if answer is None else [answer]


def _end_of(campaign: _Campaign, peer: Peer, heard: list[tuple[int, bytes]]) -> str:
    """Listen to the end, keep what was acknowledged."""
    time.sleep(_LISTEN_S)  # or the end of our side would overtake what we said
    peer.say_no_more()
    heard += peer.read_all()
    for answer in rude.answers(heard):
        if answer.field == 0x8001 and answer.status == 0x0000:
            with campaign.lock:
                campaign.acknowledged.add(answer.instance)
    kinds = [kind for kind, _ in heard]
    for kind, words in ((0x07, "aborted"), (0x03, "rejected"), (0x06, "released"), (0x04, "answered")):
        if kind in kinds:
            return words
    return "closed"


def _visit(campaign: _Campaign, rng: random.Random) -> str:
    (status,) = rude.stores(campaign.port, campaign.object(rng))
    if status != 0x0000:
        campaign.finding(f"an honest object was answered 0x{status:04X}")
    return "released"


def _flip_bits(campaign: _Campaign, rng: random.Random) -> str:
    pdus = [bytearray(each) for each in _good(campaign, rng)]
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        each = rng.choice(pdus)
        each[rng.randrange(len(each))] ^= 1 << rng.randrange(8)
    return _talk(campaign, [bytes(each) for each in pdus], rng)


def _change_lengths(campaign: _Campaign, rng: random.Random) -> str:
    pdus = [bytearray(each) for each in _good(campaign, rng)]
    for _ in range(rng.choice((1, 1, 3))):
        each = rng.choice(pdus)
        at = 2 if rng.random() < 0.5 or len(each) < 12 else rng.choice((6, rng.randrange(6, len(each) - 4)))
        wrong = rng.choice((0, 1, 2, 5, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
        each[at : at + 4] = wrong.to_bytes(4, "big")
    return _talk(campaign, [bytes(each) for each in pdus], rng)


def _cut_short(campaign: _Campaign, rng: random.Random) -> str:
    whole = b"".join(_good(campaign, rng))
    return _talk(campaign, [whole[: rng.randrange(len(whole))]], rng)


def _cut_out(campaign: _Campaign, rng: random.Random) -> str:
    whole = b"".join(_good(campaign, rng))
    at = rng.randrange(len(whole))
    return _talk(campaign, [whole[:at] + whole[at + rng.choice((1, 2, 6, 100)) :]], rng)


def _repeat(campaign: _Campaign, rng: random.Random) -> str:
    pdus = _good(campaign, rng)
    at = rng.randrange(len(pdus))
    return _talk(campaign, pdus[:at] + [pdus[at]] * rng.choice((1, 2, 20)) + pdus[at:], rng)


def _reorder(campaign: _Campaign, rng: random.Random) -> str:
    pdus = _good(campaign, rng)
    if rng.random() < 0.3:
        rng.shuffle(pdus)
    else:
        rest = pdus[1:]
        rng.shuffle(rest)
        pdus = [pdus[0], *rest]
    return _talk(campaign, pdus, rng)


def _splice(campaign: _Campaign, rng: random.Random) -> str:
    one, two = b"".join(_good(campaign, rng)), b"".join(_good(campaign, rng))
    return _talk(campaign, [one[: rng.randrange(len(one))] + two[rng.randrange(len(two)) :]], rng)


def _mix(campaign: _Campaign, rng: random.Random) -> str:
    """The PDUs of two stores, zipped into each other."""
    one, two = _good(campaign, rng), _good(campaign, rng)
    merged = [one[0]]
    for pair in zip(one[1:], two[1:], strict=False):
        merged += pair
    return _talk(campaign, merged, rng)


def _noise(campaign: _Campaign, rng: random.Random) -> str:
    pdus = _good(campaign, rng)
    at = rng.randrange(len(pdus) + 1)
    noise = rng.randbytes(rng.choice((1, 6, 50, 5000)))
    if rng.random() < 0.7:
        noise = rude.pdu(rng.choice((1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 0, 255)), noise)
    return _talk(campaign, [*pdus[:at], noise, *pdus[at:]], rng)


def _wrong_commands(campaign: _Campaign, rng: random.Random) -> str:
    uid, data_set = campaign.object(rng)
    elements = [
        (
            0x0002,
            rude.ui(
                rng.choice((*[rude.ULTRASOUND] * 8, rude.VERIFICATION, "1.2.3", "", "9" * 70, "..", "1.\0.2"))
            ),
        ),
        (
            0x0100,
            rude.us(rng.choice((*[0x0001] * 8, 0x0030, 0x0020, 0x0100, 0x0FFF, 0x8001, rng.getrandbits(16)))),
        ),
        (0x0110, rude.us(rng.getrandbits(16))),
        (0x0700, rude.us(rng.choice((0, 1, 2, 3, 77)))),
        (0x0800, rude.us(rng.choice((1, 1, 1, 0x0101, 0)))),
        (0x1000, rude.ui(rng.choice((uid, uid, uid, "../../etc/passwd", "", "1" * 200)))),
        (0x1030, rng.randbytes(rng.choice((0, 16, 2000)))),
    ]
    rng.shuffle(elements)
    if rng.random() < 0.5:
        elements.pop(rng.randrange(len(elements)))
    if rng.random() < 0.7:
        elements.sort()
    set_ = rude.command(*elements)
    context = rng.choice((*[rude.STORE_CONTEXT] * 6, rude.ECHO_CONTEXT, 99))
    pdus = [rude.associate(), rude.p_data((context, rude.LAST_COMMAND, set_))]
    pdus += [rude.p_data((context, rude.LAST_DATA, data_set)), rude.RELEASE]
    return _talk(campaign, pdus, rng)


def _wrong_fragments(campaign: _Campaign, rng: random.Random) -> str:
    """Right bytes under wrong control headers and contexts."""
    uid, data_set = campaign.object(rng)
    whole = rude.store_command(uid) + data_set[:3000]
    fragments = []
    while whole:
        size = rng.choice((0, 1, 100, 1000))
        fragments.append((rng.choice((1, 3, 3, 3, 5)), rng.choice((0, 1, 2, 3, 0xFF)), whole[:size]))
        whole = whole[max(size, 1) :]
        if len(fragments) > 200:
            break
    return _talk(campaign, [rude.associate(), rude.p_data(*fragments), rude.RELEASE], rng)


def _odd_association(campaign: _Campaign, rng: random.Random) -> str:
    contexts = [
        (
            rng.randrange(256),
            rng.choice((rude.ULTRASOUND, rude.VERIFICATION, "", "1.2.3", "x" * 100)),
            rng.sample((rude.EXPLICIT, rude.IMPLICIT, "", "1.2.3", "\xff" * 3), rng.randrange(4)),
        )
        for _ in range(rng.choice((0, 1, 3, 128, 200)))
    ]
    request = rude.associate(
        [(number, abstract, syntaxes) for number, abstract, syntaxes in contexts],
        calling=rng.choice(("RUDE", "", "  ", "\\", "\x00" * 16, "\x1b[31m")),
        called=rng.choice(("EMODE", "EMODE", "OTHER", "")),
        longest=rng.choice((0, 1, 6, 7, 16384, 0xFFFFFFFF)),
    )
    pdus = [request, rude.echo(), *rude.store(*campaign.object(rng)), rude.RELEASE]
    return _talk(campaign, pdus, rng)


def _reset_anywhere(campaign: _Campaign, rng: random.Random) -> str:
    whole = b"".join(_good(campaign, rng))
    peer = Peer(campaign.port, timeout_s=_HANG_S)
    peer.send(whole[: rng.randrange(len(whole) + 1)])
    time.sleep(rng.choice((0, 0, 0.01, 0.05)))
    peer.reset()
    return "reset by us"


def _never_reads(campaign: _Campaign, rng: random.Random) -> str:
    with Peer(campaign.port, timeout_s=_HANG_S) as peer:
        peer.send(rude.associate())
        heard = _first_answer(peer)
        peer.send(*[rude.echo(n) for n in range(rng.choice((10, 100)))])
        return _end_of(campaign, peer, heard)


def _trickle(campaign: _Campaign, rng: random.Random) -> str:
    whole = b"".join(_good(campaign, rng))
    with Peer(campaign.port, timeout_s=_HANG_S) as peer:
        for at in range(0, rng.choice((30, 300)), 7):
            peer.send(whole[at : at + 7])
            time.sleep(0.005)
        return _end_of(campaign, peer, [])


def _crowd(campaign: _Campaign, rng: random.Random) -> str:
    crowd = [Peer(campaign.port, timeout_s=_HANG_S) for _ in range(rng.choice((5, 20)))]
    for each in crowd:
        each.send(rude.associate()[: rng.choice((0, 3, 6, 50))])
    for each in crowd:
        if rng.random() < 0.5:
            each.reset()
        else:
            each.close()
    return "left by us"


def _well_behaved(campaign: _Campaign, rng: random.Random) -> str:
    uid, data_set = campaign.object(rng)
    statuses = rude.stores(campaign.port, (uid, data_set), calling="GOOD")
    with campaign.lock:
        campaign.acknowledged.add(uid)
    if statuses != [0x0000]:
        campaign.finding(f"a good conversation was answered {statuses}")
    return "released"


_MUTATIONS: dict[str, Callable[[_Campaign, random.Random], str]] = {
    "bits flipped": _flip_bits,
    "lengths changed": _change_lengths,
    "cut short": _cut_short,
    "bytes missing": _cut_out,
    "PDUs repeated": _repeat,
    "PDUs in another order": _reorder,
    "two conversations spliced": _splice,
    "two conversations mixed": _mix,
    "noise in between": _noise,
    "commands out of their rules": _wrong_commands,
    "fragments out of their rules": _wrong_fragments,
    "odd association requests": _odd_association,
    "reset anywhere": _reset_anywhere,
    "answers not read": _never_reads,
    "bytes that trickle": _trickle,
    "crowds": _crowd,
    "(no mutation)": _well_behaved,
}


# -- around the cases ---------------------------------------------------------------------------


def _honest(campaign: _Campaign, stop: threading.Event) -> None:
    """An honest sender, all the time: every object must be taken, at the first try."""
    rng = random.Random(f"{campaign.seed}/honest")
    while not stop.wait(_HONEST_EVERY_S):
        started = time.monotonic()
        uid, data_set = campaign.object(rng)
        try:
            statuses = rude.stores(campaign.port, (uid, data_set))
        except (AssertionError, OSError) as error:
            campaign.finding(f"an honest sender was not served: {type(error).__name__} {error}")
            continue
        if statuses != [0x0000]:
            campaign.finding(f"an honest object was answered {statuses}")
        with campaign.lock:
            campaign.acknowledged.add(uid)
            campaign.report.case("(honest sender in between)", "released", time.monotonic() - started)


def _say(words: str) -> None:
    sys.stderr.write(f"network: {words}\n")


def _look_at_log(campaign: _Campaign, log: str) -> None:
    for line in log.splitlines():
        if any(f'"action": "{action}"' in line for action in _UNFORESEEN) or not line.startswith("{"):
            campaign.finding(f"the log says {line}")


def _look_for_lost(campaign: _Campaign, receiver: Receiver) -> None:
    database = next((receiver.node.folder / "data").glob("*.sqlite*"))
    with closing(sqlite3.connect(database)) as known:
        kept = {uid for (uid,) in known.execute("SELECT sop_instance_uid FROM images")}
    lost = campaign.acknowledged - kept
    _say(f"{len(campaign.acknowledged)} objects acknowledged, {len(lost)} of them not in the database")
    for uid in sorted(lost):
        campaign.finding(f"acknowledged and not in the database: {uid!r}")
    left = list((receiver.node.folder / "data" / "incoming").glob("*.dcm"))
    if left:
        campaign.finding(f"{len(left)} partial files are left")


def _small_data_set(folder: Path) -> bytes:
    ds = breast_still(rows=48, columns=48)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = _OLD_UID
    path = write(ds, folder / "small.dcm")
    return path.read_bytes()[dataset_offset(path) :]
