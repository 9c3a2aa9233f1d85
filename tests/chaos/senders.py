"""Senders that behave as a PACS does, and the ledger of what they were promised."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pynetdicom import AE

from dicom_node.dicom.part10 import dataset_offset
from harness import raw_store
from peers.dcmtk import storescu
from peers.still import US_IMAGE, breast_still, write

AT_ONCE, WHEN_SETTLED = "EMODE", "EMODE_HELD"
"""Called AE titles: results go at once, or when their study has settled."""

_IMAGES_PER_STUDY = 9


@dataclass(slots=True)
class Item:
    """One object and what became of it at its senders."""

    number: int
    path: Path
    uid: str
    called: str
    results: int
    """Results it must have in each archive: 1 for a B-mode image, 0 for what is no business of ours."""
    pixels: str
    """Digest of its pixels."""
    acknowledged: int = 0


class Ledger:
    """Everything that was ever offered to the node."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Keep the objects in `folder`."""
        self._folder = folder
        self._seed = seed
        self._lock = threading.Lock()
        self._count = 0
        self.items: list[Item] = []
        self.answers: Counter[str] = Counter()

    def new(self) -> Item:
        """Make the next object: mostly breast B-mode, now and then something else."""
        with self._lock:
            number = self._count
            self._count += 1
        dice = random.Random(f"{self._seed}-object-{number}")
        study = number // _IMAGES_PER_STUDY
        options = {}
        results = 1
        if dice.random() < 0.06:
            results = 0
            options = dice.choice(({"Modality": "OT"}, {"pixels": np.full((96, 128), 7, np.uint8)}))
        ds = breast_still(
            seed=number + 1,
            rows=96,
            columns=128,
            study=f"{self._seed}-{study}",
            series=f"{number % 3}",
            instance_number=number + 1,
            **options,  # type: ignore[arg-type]
        )
        item = Item(
            number,
            write(ds, self._folder / f"{number}.dcm"),
            str(ds.SOPInstanceUID),
            WHEN_SETTLED if study % 4 == 3 else AT_ONCE,
            results,
            hashlib.sha256(ds.PixelData).hexdigest(),
        )
        with self._lock:
            self.items.append(item)
        return item

    def answered(self, item: Item, status: int | None) -> None:
        """Write down one answer; None is none at all."""
        with self._lock:
            if status == 0x0000:
                item.acknowledged += 1
            self.answers["no answer" if status is None else f"0x{status:04X}"] += 1

    def pending(self) -> int:
        """Objects that were offered and not acknowledged."""
        with self._lock:
            return sum(not item.acknowledged for item in self.items)

    def duplicate(self, dice: random.Random) -> Item | None:
        """Something that was acknowledged, to be sent once more."""
        with self._lock:
            done = [item for item in self.items[-60:] if item.acknowledged]
        return dice.choice(done) if done else None


Send = Callable[[Sequence[Item], int], None]


class Sender(threading.Thread):
    """Sends until `enough` is set, then what is left; what was not acknowledged is sent again."""

    def __init__(self, ledger: Ledger, send: Send, port: int, *, seed: str, per_second: float) -> None:
        """Prepare.

        send  tries some objects of one called AE title on a port, and tells the ledger.
        """
        super().__init__(daemon=True)
        self._ledger, self._send, self._port = ledger, send, port
        self._dice = random.Random(seed)
        self._pause_s = 1 / per_second
        self._mine: list[Item] = []
        self.enough = threading.Event()
        self.give_up = threading.Event()

    def run(self) -> None:
        """Until told that it is enough."""
        while not self.give_up.is_set():
            self._mine = [item for item in self._mine if not item.acknowledged]
            if self.enough.is_set() and not self._mine:
                return
            batch = self._next()
            self._send(batch, self._port)
            time.sleep(self._pause_s * len(batch) * self._dice.uniform(0.5, 1.5))

    def _next(self) -> list[Item]:
        count = self._dice.randint(1, 4)
        if not self.enough.is_set() and len(self._mine) < 12:
            if self._dice.random() < 0.3 and (again := self._ledger.duplicate(self._dice)):
                return [again]
            self._mine += [self._ledger.new() for _ in range(count)]
        # The oldest first, all of one destination: an association has one called AE title.
        called = self._mine[0].called
        return [item for item in self._mine if item.called == called][: count + 1]


def send_with_pynetdicom(ledger: Ledger) -> Send:
    """One association; each object is sent whatever became of the one before."""

    def send(items: Sequence[Item], port: int) -> None:
        ae = AE("SCANNER")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 15
        ae.connection_timeout = 5
        objects = [pydicom.dcmread(item.path) for item in items]
        for sop_class in {ds.SOPClassUID for ds in objects}:
            ae.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
        association = ae.associate("127.0.0.1", port, ae_title=items[0].called)
        if not association.is_established:
            holder = association.dul.socket
            if holder is not None and holder.socket is not None:
                holder.socket.close()
            ledger.answered(items[0], None)
            return
        try:
            for item, ds in zip(items, objects, strict=True):
                ledger.answered(item, association.send_c_store(ds).get("Status"))
        except (RuntimeError, ValueError):
            ledger.answered(items[0], None)  # the association ended under us
        finally:
            if association.is_established:
                association.release()

    return send


def send_with_dcmtk(ledger: Ledger) -> Send:
    """One run of storescu; it stops at the first object that is not taken."""

    def send(items: Sequence[Item], port: int) -> None:
        limits = ("-to", "5", "-ta", "15", "-td", "15")
        paths = [item.path for item in items]
        sent = storescu(paths, "127.0.0.1", port, "STORESCU", items[0].called, *limits, check=False)
        answers = dict[str, int](_answer(sent.output))
        for item in items:
            ledger.answered(item, answers.get(str(item.path)))

    return send


def _answer(output: str) -> Iterator[tuple[str, int]]:
    """(path, status) of each answer in what storescu printed."""
    path = ""
    for line in output.splitlines():
        if sending := re.search(r"Sending file: (.*)", line):
            path = sending[1].strip()
        elif status := re.search(r"DIMSE Status\s*: 0x([0-9a-fA-F]{4})", line):
            yield path, int(status[1], 16)


class Nuisance(threading.Thread):
    """Now and then what must leave no trace: a stranger's title, half an object, a lying command."""

    def __init__(self, port: int, folder: Path, seed: str) -> None:
        """Prepare; half objects are made in `folder`."""
        super().__init__(daemon=True)
        self._port = port
        self._dice = random.Random(seed)
        folder.mkdir(parents=True, exist_ok=True)
        ds = breast_still(seed=0, rows=96, columns=128, study="nuisance")
        self.uid = str(ds.SOPInstanceUID)
        path = write(ds, folder / "nuisance.dcm")
        self._data = path.read_bytes()[dataset_offset(path) :]
        self.enough = threading.Event()
        self.acknowledged = 0
        self.refused = 0

    def run(self) -> None:
        """Until told that it is enough."""
        while not self.enough.wait(self._dice.uniform(1, 4)):
            kind = self._dice.randrange(3)
            try:
                status = raw_store(
                    self._port,
                    US_IMAGE,
                    self.uid if kind else "1.2.3",
                    self._data if kind == 0 else self._data[:100],
                    called="STRANGER" if kind == 2 else AT_ONCE,
                )
            except (AssertionError, RuntimeError, OSError):
                self.refused += 1  # no association: rejected, or the receiver is away
            else:
                self.acknowledged += status == 0x0000
                self.refused += status not in (None, 0x0000)
