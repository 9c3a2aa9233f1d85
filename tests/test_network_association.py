"""One association: what comes before its peer's answer, and what comes after it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pynetdicom.presentation import PresentationContext

from dicom_node.core.image import Arrival
from dicom_node.network.association import Association, AssociationLimits, Served
from dicom_node.network.messages import Message
from dicom_node.network.negotiation import Rejection, offer
from dicom_node.network.server import Arrived
from dicom_node.network.spool import SpoolLimits
from dicom_node.network.tls import Agreed
from peers.rude import ULTRASOUND, Peer, answers, associate, store


class Host:
    """Takes everybody and everything; `then` is what can wait."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.then = then
        self.spooled: list[Path] = []

    def admit(self, guest: Association, agreed: Agreed | None) -> Rejection | None:
        return None

    def offered_to(self, arrival: Arrival) -> Sequence[PresentationContext]:
        return (offer(ULTRASOUND),)

    def began(self, guest: Association) -> None:
        pass

    def serve(self, guest: Association, message: Message) -> Served:
        assert message.spool is not None
        self.spooled.append(message.spool.path)
        return Served(0x0000, self.then)

    def answered(self, guest: Association, message: Message) -> None:
        pass

    def ended(self, guest: Association, *, released: bool) -> None:
        pass


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[Callable[[Host], tuple[Peer, threading.Event]]]:
    """Associates a peer with a host; also an event for when nothing of the association is left."""
    door = socket.create_server(("127.0.0.1", 0))
    peers: list[Peer] = []
    limits = AssociationLimits(16384, 20, SpoolLimits(tmp_path, 1 << 20, lambda: None))

    def associated(host: Host) -> tuple[Peer, threading.Event]:
        peers.append(peer := Peer(door.getsockname()[1], timeout_s=20))
        over = threading.Event()
        arrived = Arrived(door.accept()[0], ("127.0.0.1", 1), associate(), lambda visit: over.set())
        Association(host, limits, arrived).start()
        assert (peer.read() or (0,))[0] == 0x02
        return peer, over

    yield associated
    for peer in peers:
        peer.close()
    door.close()


def status_of(peer: Peer) -> int:
    answer = peer.read()
    assert answer is not None
    return next(answers([answer])).status


def test_a_sender_waits_for_nothing_that_can_wait(visit) -> None:
    told, has_answer = threading.Event(), threading.Event()
    peer, over = visit(Host(lambda: told.set() if has_answer.wait(20) else None))
    peer.send(*store("1.2.3", b"some"))
    assert status_of(peer) == 0x0000
    assert not told.is_set()
    has_answer.set()
    peer.close()
    assert over.wait(20)
    assert told.is_set()


def test_what_remains_to_be_done_is_done_if_the_sender_is_gone(visit) -> None:
    told, is_gone = threading.Event(), threading.Event()

    class Slow(Host):
        def serve(self, guest: Association, message: Message) -> Served:
            is_gone.wait(20)
            return super().serve(guest, message)

    host = Slow(told.set)
    peer, over = visit(host)
    peer.send(*store("1.2.3", b"some"))
    peer.reset()
    is_gone.set()
    assert over.wait(20)
    assert told.is_set()


def test_the_next_object_finds_a_file_and_the_last_leaves_none(visit, tmp_path: Path) -> None:
    """Making a file can take longer than filling it, so it is made while the sender thinks."""
    host = Host()
    peer, over = visit(host)
    assert list(tmp_path.iterdir()) == []  # who stores nothing costs no file
    peer.send(*store("1.2.3", b"some"))
    assert status_of(peer) == 0x0000
    deadline = time.monotonic() + 20
    while not (made := set(tmp_path.iterdir()) - {host.spooled[0]}) and time.monotonic() < deadline:
        time.sleep(0.01)
    peer.send(*store("1.2.4", b"some"))
    assert status_of(peer) == 0x0000
    assert made == {host.spooled[1]}
    peer.close()
    assert over.wait(20)
    assert list(tmp_path.iterdir()) == []
