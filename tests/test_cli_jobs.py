"""What an admin reads and does at 3 a.m.: destinations in a sentence, jobs by what they have in common."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from typer.testing import CliRunner

from courier import Courier
from dicom_node.cli.destinations import sentence
from dicom_node.cli.main import app
from dicom_node.core.breaker import Breaker, BreakerState
from dicom_node.store.overview import DestinationLine
from harness import node_config
from peers.liars import Liar, answer

NOW = datetime(2026, 1, 31, 5, 0, tzinfo=UTC)
WELL = DestinationLine("archive", Breaker(), 0, 0, 0, 0, NOW - timedelta(minutes=2, seconds=5))
DOWN = Breaker(
    state=BreakerState.OPEN,
    failures=7,
    pauses=4,
    since=NOW - timedelta(hours=1, minutes=48),
    next_try_at=NOW + timedelta(seconds=40),
    error_code="destination-unreachable",
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (WELL, "ok, last stored 2 min ago"),
        (replace(WELL, last_stored_at=None), "ok so far, nothing stored yet"),
        (replace(WELL, waiting=1), "ok, last stored 2 min ago, 1 result waits"),
        (
            replace(WELL, parked=2, warned=1),
            "ok, last stored 2 min ago, 2 parked (`emode jobs list --by-reason` says why), "
            "1 stored with a warning (`emode status` shows it)",
        ),
        (
            replace(WELL, waiting=37, breaker=DOWN),
            "not reachable since 03:12Z, 37 results wait, next try in 40 s",
        ),
        (
            replace(WELL, breaker=replace(DOWN, next_try_at=None)),
            "not reachable since 03:12Z, nothing waits, next try with the next result",
        ),
        (
            replace(WELL, waiting=1, breaker=replace(DOWN, state=BreakerState.HALF_OPEN)),
            "not reachable since 03:12Z, 1 result waits, being tried now",
        ),
        (
            replace(WELL, breaker=replace(DOWN, since=NOW - timedelta(days=3), next_try_at=None), waiting=2),
            "not reachable since 2026-01-28 05:00Z, 2 results wait, next try now",
        ),
    ],
)
def test_a_destination_is_one_plain_sentence(line, words):
    assert sentence(line, NOW) == words


class Operator:
    """The command line on a folder where one archive refused some results and one is not there."""

    def __init__(self, folder, config):
        self.config = folder / "node.yaml"
        self.config.write_text(yaml.safe_dump(config))

    def __call__(self, *arguments, status=0):
        done = CliRunner().invoke(app, [*arguments, "--config", str(self.config)])
        assert done.exit_code == status, done.output
        return done.output

    def facts(self, *arguments):
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def operator(tmp_path, free_port):
    with Liar(lambda number, ds: answer(0xA900 if number % 2 else 0xC001, "no such thing")) as pacs:
        ports = {"archive": pacs.port, "away": free_port}
        courier = Courier(tmp_path, ports, breaker={"failures": 1, "first_pause_s": 3600})
        courier.add(4, "archive", "away")
        with courier:
            courier.wait(lambda: courier.states("archive") == ["parked"] * 4)
            courier.wait(lambda: courier.breaker("away").state is BreakerState.OPEN)
        yield Operator(
            tmp_path, node_config(tmp_path, {name: ("PACS", port) for name, port in ports.items()})
        )


def test_jobs_are_counted_by_reason_with_what_to_do(operator):
    lines = {fact["line"]["error_code"]: fact for fact in operator.facts("jobs", "list", "--by-reason")}
    refused = lines["destination-refused"]
    assert (refused["line"]["count"], refused["line"]["lane"], refused["line"]["state"]) == (
        4,
        "archive",
        "failed",
    )
    assert refused["sentence"] == "The destination answered, but would not store the instance."
    assert "emode jobs retry" in refused["next_step"]
    assert 'it wrote: "no such thing"' in refused["line"]["example"]
    away = lines["destination-unreachable"]["line"]
    assert (away["count"], away["state"]) == (4, "waiting")
    told = operator("destinations", "list")
    assert "archive: ok so far, nothing stored yet, 4 parked" in told
    assert "away: not reachable since" in told
    assert "4 results wait, next try in" in told
    assert "away is tried at once" in operator("destinations", "try", "away")
    assert "archive is not left alone" in operator("destinations", "try", "archive")
    operator("destinations", "try", "elsewhere", status=2)


def test_jobs_are_retried_and_cancelled_by_what_they_have_in_common(operator):
    for command in ("retry", "cancel"):
        assert "say which jobs" in operator("jobs", command, status=2)
        operator("jobs", command, "1", "--failed", status=2)
    assert "no job fits" in operator("jobs", "retry", "--destination", "away")  # waiting is not failed
    assert "no job fits" in operator("jobs", "retry", "--study", "ANOTHER")
    assert "no job fits" in operator("jobs", "retry", "--reason", "keeps-nothing", "--destination", "archive")
    told = operator(
        "jobs", "retry", "--study", "1", "--reason", "destination-refused", "--destination", "archive"
    )
    assert "no job fits" in told
    study = operator.facts("studies")[0]["study_instance_uid"]
    chosen = ("--study", study, "--reason", "destination-refused", "--destination", "archive")
    assert "4 jobs waiting again" in operator("jobs", "retry", *chosen)
    states = [line["state"] for line in operator.facts("jobs", "list", "--destination", "archive")]
    assert states == ["waiting"] * 4

    told = operator("jobs", "cancel", "--destination", "away", status=2)
    assert "4 jobs would be ended for good; nothing was done. --yes does it" in told
    assert len(operator.facts("jobs", "list", "--destination", "away", "--state", "waiting")) == 4
    assert "4 jobs cancelled" in operator("jobs", "cancel", "--destination", "away", "--yes")
    assert operator.facts("jobs", "list", "--destination", "away", "--state", "waiting") == []
