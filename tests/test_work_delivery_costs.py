"""What a delivered result costs in statements and commits, and what of a study shares: counts, not seconds.

A change that raises one of these makes every delivery slower on every machine; then it is argued for here.
"""

from collections import Counter

import pytest
from sqlalchemy import event

from courier import Courier
from dicom_node.network import requestor
from dicom_node.work import recorder
from dicom_node.work.recorder import GATHERED_AT_MOST
from peers.liars import Liar

WRITE = ("INSERT", "UPDATE", "DELETE")


class Counted:
    """What a courier asks of its database and of the network from now on."""

    def __init__(self, courier, monkeypatch):
        self.counter = Counter()
        self._writing = False
        event.listen(courier.database._writer, "before_cursor_execute", self._statement)
        event.listen(courier.database._writer, "commit", self._commit)
        sendall = requestor.Requestor._send
        monkeypatch.setattr(
            requestor.Requestor,
            "_send",
            lambda association, some: self.counter.update(sent=1) or sendall(association, some),
        )

    def _statement(self, conn, cursor, statement, *rest):
        conn.info["writes"] = conn.info.get("writes", False) or statement == "BEGIN IMMEDIATE"
        self.counter.update(written=statement.startswith(WRITE), read=statement.startswith("SELECT"))

    def _commit(self, conn):
        self.counter.update(commits=conn.info.pop("writes", False))


@pytest.fixture
def delivered(tmp_path, monkeypatch):
    """Deliver so many results that wait together; returns what that took, first to last."""
    monkeypatch.setattr(recorder, "GATHERED_FOR_S", 60.0)  # groups are as large as they may be

    def deliver(count, **options):
        with Liar() as pacs, Courier(tmp_path, {"archive": pacs.port}, **options) as courier:
            courier.add(1, "archive")  # the lanes have started, and what is looked up once is known
            end = "accepted" if options.get("confirm", "none") == "none" else "confirmed"
            courier.wait(lambda: courier.states() == [end])
            courier.end()
            courier.add(count, "archive", first=2)
            counted = Counted(courier, monkeypatch)
            courier.start()
            courier.wait(lambda: courier.states() == [end] * (count + 1))
            courier.end()
            return counted.counter, pacs

    return deliver


def test_results_that_wait_together_share_what_they_can(delivered):
    """Two statements for the claim, three for each group of 16 (four if a question follows)."""
    count = 2 * GATHERED_AT_MOST
    costs, pacs = delivered(count)
    # Taking back what a dead process left is one more commit for each of two lanes.
    assert costs["commits"] - 2 == 1 + 2
    assert costs["written"] == 2 + 2 * 3
    # The command and the data set, and the association's request and release.
    assert costs["sent"] == 2 * count + 2
    assert pacs.associations == 2


def test_a_lone_result_and_its_proof(delivered):
    costs, _ = delivered(1, confirm="find", confirm_delay_s=0)
    # Claimed and ended, twice.
    assert costs["commits"] - 2 == 4
    assert costs["written"] == 2 + 4 + 2 + 3
