"""What the audit trail says of deliveries: all that were committed, once each, and many in one record."""

from datetime import UTC, datetime, timedelta

import pytest

from courier import Courier
from dicom_node.core.delivery import DeliveryState
from dicom_node.network.requestor import RemoteAE
from dicom_node.node.people import audit_log_of
from dicom_node.store.results import Parcel
from dicom_node.telemetry.audit_message import AuditKind, from_xml
from dicom_node.work.audited import DeliveryAudit
from dicom_node.work.outcome import NothingKept
from peers.liars import Liar

BEGUN, DELIVERED = AuditKind.DELIVERY_BEGUN, AuditKind.INSTANCES_DELIVERED
CONFIRMED, REFUSED = AuditKind.DELIVERY_CONFIRMED, AuditKind.DELIVERY_REFUSED


def told(courier, *kinds):
    """(kind, instances) of each record, in order."""
    events = [from_xml(record.message) for record, _ in audit_log_of(courier.config).records()]
    return [
        (event.kind, sum(count for thing in event.things for _, count in thing.instances))
        for event in events
        if event.kind in kinds
    ]


def test_what_goes_over_one_association_is_one_record(tmp_path):
    with (
        Liar() as pacs,
        Courier(tmp_path, {"archive": pacs.port}, linger_s=1, confirm="find", confirm_delay_s=0) as courier,
    ):
        for number in range(1, 4):
            courier.add(1, "archive", first=number)
            courier.wait(lambda n=number: courier.states() == ["confirmed"] * n)
        assert told(courier, DELIVERED, CONFIRMED, REFUSED) == []
        courier.wait(lambda: (CONFIRMED, 3) in told(courier, CONFIRMED))
        courier.wait(lambda: (DELIVERED, 3) in told(courier, DELIVERED))
        courier.end()
        assert told(courier, BEGUN) == [(BEGUN, 1)] * 3
        assert told(courier, DELIVERED, REFUSED) == [(DELIVERED, 3)]
        assert told(courier, CONFIRMED) == [(CONFIRMED, 3)]


def test_stopping_tells_what_is_not_told_yet(tmp_path):
    with Liar() as pacs, Courier(tmp_path, {"archive": pacs.port}, linger_s=20) as courier:
        courier.add(40, "archive")
        courier.wait(lambda: set(courier.states()) == {"accepted"})
        courier.end()
        assert told(courier, DELIVERED) == [(DELIVERED, 40)]


def test_ends_that_are_committed_after_the_batch_are_told_too(tmp_path, free_port):
    """The loop takes all that is left of a batch whose destination is away, and commits it then."""
    breaker = {"failures": 10, "first_pause_s": 3600, "cap_s": 3600}
    with Courier(tmp_path, {"archive": free_port}, breaker=breaker) as courier:
        courier.add(3, "archive", max_attempts=1)
        courier.wait(lambda: set(courier.states()) == {"parked"})
        courier.wait(lambda: sum(count for _, count in told(courier, REFUSED)) == 3)
        courier.end()
        assert told(courier, DELIVERED, CONFIRMED) == []


def test_a_refusal_is_told_at_once_while_the_association_is_open(tmp_path):
    with Liar(lambda number, ds: 0xC000) as pacs, Courier(tmp_path, {"archive": pacs.port}) as courier:
        courier.add(1, "archive")
        courier.wait(lambda: told(courier, REFUSED) == [(REFUSED, 1)])


# -- a lane that never rests ------------------------------------------------------------------------


class Trail(list):
    def record(self, event):
        self.append((event.kind, event.things[0].instances[0][1]))


@pytest.fixture
def trail():
    return Trail()


def audit_at(times, trail):
    remote = RemoteAE("archive", "PACS", "127.0.0.1", 1, "EMODE", 10, 60)
    return DeliveryAudit(remote, trail, lambda: times[-1], NothingKept())


def parcel(number, state=DeliveryState.QUEUED):
    return Parcel(number, state, f"1.{number}", "2", "3", "4", "d", None, None)


def test_it_is_told_now_and_then_all_the_same(trail):
    times = [datetime(2026, 1, 31, tzinfo=UTC)]
    audit = audit_at(times, trail)
    for seconds in range(25):
        times.append(times[0] + timedelta(seconds=seconds))
        audit.ended([(parcel(seconds), DeliveryState.ACCEPTED)])
    assert trail == [(DELIVERED, 11), (DELIVERED, 11)]
    audit.rest()
    assert sum(count for _, count in trail) == 25


def test_and_when_there_are_many(trail):
    audit = audit_at([datetime(2026, 1, 31, tzinfo=UTC)], trail)
    for number in range(1200):
        audit.ended([(parcel(number), DeliveryState.CONFIRMED)])
    assert trail == [(CONFIRMED, 500), (CONFIRMED, 500)]


def test_a_clock_that_is_set_back_delays_no_record(trail):
    times = [datetime(2026, 1, 31, tzinfo=UTC)]
    audit = audit_at(times, trail)
    audit.ended([(parcel(1), DeliveryState.ACCEPTED)])
    times.append(times[0] - timedelta(hours=5))
    audit.ended([(parcel(2), DeliveryState.ACCEPTED)])
    assert trail == [(DELIVERED, 2)]


def test_what_is_sent_again_or_overtaken_is_not_told(trail):
    audit = audit_at([datetime(2026, 1, 31, tzinfo=UTC)], trail)
    audit.ended([(parcel(1), DeliveryState.QUEUED)])
    audit.rest()
    assert trail == []
