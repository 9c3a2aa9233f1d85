"""Group commit: many threads, few transactions, and nobody hears of success before it is durable."""

import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import event, insert, select

from dicom_node.core.errors import ObjectUnreadable, StoreBusy
from dicom_node.store.database import open_database
from dicom_node.store.schema import studies
from dicom_node.store.together import Together

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    opened = open_database(tmp_path / "state.sqlite", NOW)
    yield opened
    opened.close()


def study(conn, name):
    conn.execute(
        insert(studies).values(
            study_instance_uid=name, state="receiving", first_received_at=NOW, last_received_at=NOW
        )
    )
    return name


def stored(database):
    with database.read() as conn:
        return set(conn.scalars(select(studies.c.study_instance_uid)))


def at_once(together, works):
    """Run each in a thread; the first holds the turn until all others wait."""
    outcomes = {}
    waiting = threading.Event()

    def first(conn):
        waiting.wait(20)
        return study(conn, "first")

    def run(name, work):
        try:
            outcomes[name] = together.write(work)
        except Exception as error:  # noqa: BLE001
            outcomes[name] = error

    threads = [threading.Thread(target=run, args=("first", first))]
    threads[0].start()
    while together._waiting:  # it has begun once it is no longer in the queue
        pass
    threads += [threading.Thread(target=run, args=item) for item in works.items()]
    for thread in threads[1:]:
        thread.start()
    while len(together._waiting) < len(works):
        pass
    waiting.set()
    for thread in threads:
        thread.join(20)
    return outcomes


def test_those_that_wait_share_one_transaction(database):
    commits = []
    event.listen(database._writer, "commit", lambda conn: commits.append(1))
    names = [f"1.{n}" for n in range(8)]
    works = {name: (lambda conn, name=name: study(conn, name)) for name in names}
    outcomes = at_once(Together(database), works)
    assert outcomes == {name: name for name in ["first", *names]}
    assert stored(database) == {"first", *names}
    assert len(commits) - 1 == 2  # the last is the look at what is stored


def test_one_that_fails_takes_nobody_along(database):
    def fails(conn):
        study(conn, "half")
        raise ObjectUnreadable("of this share alone")

    works = {
        "good": lambda conn: study(conn, "1.1"),
        "bad": fails,
        "twice": lambda conn: study(conn, "1.2") and study(conn, "1.2"),
        "other": lambda conn: study(conn, "1.3"),
    }
    outcomes = at_once(Together(database), works)
    assert outcomes["good"] == "1.1"
    assert outcomes["other"] == "1.3"
    assert isinstance(outcomes["bad"], ObjectUnreadable)
    assert type(outcomes["twice"]).__name__ == "IntegrityError"
    assert stored(database) == {"first", "1.1", "1.3"}


def test_a_commit_that_fails_is_everybodys_failure(database):
    def refuse(conn):
        if stored_in(conn) > 1:
            raise StoreBusy("the disk is full")

    def stored_in(conn):
        return len(conn.exec_driver_sql("select id from studies").all())

    event.listen(database._writer, "commit", refuse)
    works = {name: (lambda conn, name=name: study(conn, name)) for name in ("1.1", "1.2")}
    outcomes = at_once(Together(database), works)
    assert outcomes["first"] == "first"
    assert isinstance(outcomes["1.1"], StoreBusy)
    assert isinstance(outcomes["1.2"], StoreBusy)
