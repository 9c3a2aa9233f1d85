"""Run one campaign: start the world, let things go wrong, leave it alone, count."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from chaos.bench import ROLES, Bench
from chaos.inflict import Inflictor
from chaos.plan import draw_plan
from chaos.report import Report
from chaos.senders import Ledger, Nuisance, Sender, send_with_dcmtk, send_with_pynetdicom
from chaos.verdict import Verdict, judge, unfinished

_PER_SECOND = 0.8
_SAY_EVERY_S = 10.0


def run_campaign(
    folder: Path,
    count: int,
    seed: int,
    *,
    without: tuple[str, ...] = (),
    quiet_s: float = 300.0,
    meddle: Callable[[Bench, Callable[[], Verdict]], None] | None = None,
) -> Report:
    """Inflict `count` faults drawn from `seed` on a node in `folder` (new or empty) and judge what is left.

    without  kinds of fault to leave out.
    quiet_s  seconds that the node has, once left alone, to finish everything; counted anew at each progress.
    meddle   called after the verdict, while the archives still run, with a function that judges again.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    started = time.monotonic()
    bench = Bench(folder)
    kinds_off = (
        *without,
        *(("disk full",) if not bench.disk.is_small else ()),
        *(("clock set",) if not bench.clock.can_be_set else ()),
    )
    ledger = Ledger(folder / "objects", seed)
    nuisance = Nuisance(bench.node.port, folder / "nuisance", f"{seed}-nuisance")
    direct, dcmtk = send_with_pynetdicom(ledger), send_with_dcmtk(ledger)
    senders = [
        Sender(ledger, send, port, seed=f"{seed}-sender-{number}", per_second=_PER_SECOND)
        for number, (send, port) in enumerate(
            ((direct, bench.node.port), (direct, bench.sender_line.port), (dcmtk, bench.node.port))
        )
    ]
    inflictor = Inflictor(bench, draw_plan(count, seed, kinds_off), seed)
    try:
        for role in ROLES:
            if not bench.node.wait_ready(role):
                raise AssertionError(f"the node did not start; see {bench.node.log_file}")
        for thread in (*senders, nuisance):
            thread.start()
        faults_from = time.monotonic()
        inflictor.start()
        _watch(inflictor, ledger, bench, count)
        inflictor.end()
        faults_s = time.monotonic() - faults_from
        _leave_alone(bench)
        for thread in (*senders, nuisance):
            thread.enough.set()
        quiet = _wait_until_quiet(bench, ledger, quiet_s)
        # Leftovers are swept when a process starts, and now and then.
        bench.node.kill("courier")
        bench.node.kill("worker")
        time.sleep(1)
        for role in ROLES:
            bench.node.wait_ready(role)
        time.sleep(3)
        _wait_until_quiet(bench, ledger, 30)
        for sender in senders:
            sender.give_up.set()
        nuisance.join()
        exit_status = bench.node.stop()
        verdict = judge(bench, ledger, nuisance, exit_status)
        report = Report(
            seed=seed,
            count=count,
            without=kinds_off,
            faults=dict(inflictor.done),
            steps=dict(inflictor.steps),
            not_reached=dict(inflictor.not_reached),
            failures=inflictor.failures,
            verdict=verdict,
            faults_s=faults_s,
            seconds=time.monotonic() - started,
            quiet=quiet,
            node_actions=dict(bench.node.actions),
        )
        if not report.holds:
            report.kept_in = str(folder)
            bench.keep_data()
        if meddle is not None:
            meddle(bench, lambda: judge(bench, ledger, nuisance, exit_status))
        return report
    finally:
        inflictor.end()
        nuisance.enough.set()
        for sender in senders:
            sender.give_up.set()
        bench.close()
        bench.disk.remove()


def _leave_alone(bench: Bench) -> None:
    bench.disk.free()
    bench.clock.set(0)
    for order in bench.node.orders.glob("*.*"):
        if not order.name.startswith("obeyed-"):
            order.unlink(missing_ok=True)


def _watch(inflictor: Inflictor, ledger: Ledger, bench: Bench, count: int) -> None:
    said = 0.0
    while busy := inflictor.busy():
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            done = sum(inflictor.done.values())
            sent = sum(bool(item.acknowledged) for item in ledger.items)
            _say(f"{done} of {count} faults, {sent} images acknowledged; busy: {', '.join(busy)}")
        time.sleep(0.2)


def _wait_until_quiet(bench: Bench, ledger: Ledger, patience_s: float) -> bool:
    """Wait until the node has nothing to do for 3 s; False if it does not get on for `patience_s`."""
    before, last_progress, quiet_since = None, time.monotonic(), None
    said = 0.0
    while True:
        left = {**unfinished(bench), **({"not acknowledged": n} if (n := ledger.pending()) else {})}
        now = time.monotonic()
        if not left:
            quiet_since = quiet_since or now
            if now - quiet_since > 3:
                return True
        else:
            quiet_since = None
            if left != before:
                before, last_progress = left, now
            if now - last_progress > patience_s:
                return False
            if now - said > _SAY_EVERY_S:
                said = now
                _say("left alone; still to do: " + ", ".join(f"{n} {what}" for what, n in left.items()))
        time.sleep(1)


def _say(text: str) -> None:
    sys.stderr.write(f"chaos: {text}\n")
    sys.stderr.flush()
