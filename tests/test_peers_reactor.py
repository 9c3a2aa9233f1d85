"""The race in pynetdicom that loses answers, and its cure, made certain by slowing the reactor down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from dicom_node.network.adapter import is_tested_version
from peers.reactor import Checkpoint, steady_reactor

_PREEMPTED_S = 0.05


class _SlowEvent(threading.Event):
    """As pynetdicom's own, with the scheduler taking the reactor's turn away at the worst moment."""

    def wait(self, timeout: float | None = None) -> bool:
        passed = super().wait(timeout)
        time.sleep(_PREEMPTED_S)
        return passed


class _SlowCheckpoint(Checkpoint):
    def wait(self) -> bool:
        passed = super().wait()
        time.sleep(_PREEMPTED_S)
        return passed


def _slow_down(association: Any, checkpoint: Any) -> None:
    """Take the turn of the sender away, too: after the request has left, before it waits for the answer."""
    association._reactor_checkpoint = checkpoint
    send = association.dimse.send_msg

    def send_and_lose_the_turn(*arguments: Any) -> None:
        send(*arguments)
        time.sleep(3 * _PREEMPTED_S)

    association.dimse.send_msg = send_and_lose_the_turn


@pytest.fixture
def port() -> Iterator[int]:
    ae = AE()
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    yield server.socket.getsockname()[1]
    server.shutdown()


def _answers(port: int, prepare: Callable[[Any], None]) -> list[bool]:
    ae = AE()
    ae.dimse_timeout = 0.5
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_CONN_OPEN, prepare)])
    assert association.is_established
    answered = []
    for _ in range(10):
        answered.append("Status" in association.send_c_echo())
        if not answered[-1]:
            break
        time.sleep(0.02)
    if association.is_established:
        association.release()
    return answered


def test_no_answer_is_lost_with_the_checkpoint(port: int) -> None:
    def slow(event: Any) -> None:
        _slow_down(event.assoc, _SlowCheckpoint(event.assoc))

    assert _answers(port, slow) == [True] * 10
    assert _answers(port, steady_reactor) == [True] * 10


def test_pynetdicom_still_needs_it(port: int) -> None:
    """If this fails after an upgrade, the race is mended there, and the checkpoint can go."""

    def slow(event: Any) -> None:
        checkpoint = _SlowEvent()
        checkpoint.set()
        _slow_down(event.assoc, checkpoint)

    assert not all(_answers(port, slow))


def test_the_adapters_were_checked_against_the_installed_pynetdicom() -> None:
    assert is_tested_version(), "check network/adapter.py and network/reactor.py, then add the version there"
