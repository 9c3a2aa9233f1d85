"""How images go through the worker: how many at a time, and that nobody waits for a fuller batch."""

import threading
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from dicom_node.core.errors import PredictionFailed
from dicom_node.core.rules import Route
from dicom_node.dicom.label import LabelSettings
from dicom_node.dicom.reading import ReadLimits, read_image
from dicom_node.dicom.results import BundleFacts, Equipment, ResultSettings
from dicom_node.node.worker import shares_of
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.jobs import claim
from dicom_node.store.process import Bells
from dicom_node.store.together import Together
from dicom_node.work import infer
from dicom_node.work.infer import Infer
from dicom_node.work.make import Appearance, Model
from dicom_node.work.receive import INFER_LANE, Reception
from harness import received_from
from peers.still import breast_still, write

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FACTS = BundleFacts("b", "1", "0" * 64, "c-1", trained_on_simulation=True)
GREYS = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1)


class Made:
    familiarity = confidence = resembles = None
    unfamiliar = False

    def __init__(self, frame):
        self.strain = frame.astype(np.float32) / 255
        self.colour = np.repeat(frame[..., None], 3, axis=2)


class Passes:
    """A predictor that counts the frames of each pass, and the threads that passes come from."""

    def __init__(self, refuses=lambda frames: False):
        self.sizes, self.threads, self.refuses = [], set(), refuses
        self.begun = threading.Event()

    def predict(self, frames):
        self.sizes.append(len(frames))
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        if self.refuses(frames):
            raise PredictionFailed("one of them")
        return [Made(frame) for frame in frames]


def infer_with(model, database, layout, route, **settings):
    """The worker's handler for one route and one model."""
    return Infer(
        database=database,
        layout=layout,
        routes={route.name: route},
        models={"default": model},
        appearance=Appearance(LabelSettings(), ResultSettings(), Equipment("1", "1")),
        limits=ReadLimits(),
        **({"delivery_attempts": {}} | settings),
    )


@pytest.fixture
def worker(tmp_path):
    """Make a handler and the jobs of some received stills."""
    layout = Layout(tmp_path / "data")
    layout.create()
    database = open_database(layout.database, NOW)
    route = Route("breast", "EMODE", "default", ())
    reception = Reception(Together(database), layout, Bells(layout.bells), (route,), 3, lambda: NOW)

    def start(predictor, *, joins_frames, images, helpers=2):
        for number in range(images):
            ds = breast_still(seed=number, rows=200, columns=240, instance_number=number)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
            reception.take(received_from(write(ds, tmp_path / "image.dcm"), layout.incoming))
        handler = infer_with(
            Model(predictor, FACTS, GREYS, joins_frames=joins_frames),
            database,
            layout,
            route,
            helpers=helpers,
        )
        with database.write() as conn:
            jobs = claim(conn, "infer", INFER_LANE, limit=images, owner="test", lease_s=60, now=NOW)
        assert len(jobs) == images
        return handler, jobs

    yield start
    database.close()


@pytest.mark.parametrize("joins_frames", [True, False])
def test_every_image_ends_once_and_in_order(worker, joins_frames):
    passes = Passes()
    handler, jobs = worker(passes, joins_frames=joins_frames, images=5)
    outcomes = list(handler(jobs))
    assert [outcome.job.id for outcome in outcomes] == [job.id for job in jobs]
    assert [outcome.detail for outcome in outcomes] == ["1 new result(s)"] * 5
    assert sum(passes.sizes) == 5


def test_images_that_go_alone_stay_in_one_thread_each_and_go_side_by_side(worker):
    passes = Passes()
    handler, jobs = worker(passes, joins_frames=False, images=4)
    list(handler(jobs))
    assert passes.sizes == [1] * 4
    assert all(name.startswith("helper") for name in passes.threads)


def test_a_pass_does_not_wait_for_what_is_still_being_read(worker, monkeypatch):
    passes, reads = Passes(), Counter()

    def slow_after_the_first(path, limits):
        reads.update(begun=1)
        if reads["begun"] > 1:
            assert passes.begun.wait(20), "the first image waited for the second"
        return read_image(path, limits)

    monkeypatch.setattr(infer, "read_image", slow_after_the_first)
    handler, jobs = worker(passes, joins_frames=True, images=3, helpers=1)
    assert [outcome.error for outcome in handler(jobs)] == [None] * 3
    assert passes.sizes[0] == 1


def test_what_is_read_goes_together(worker, monkeypatch):
    passes, release = Passes(), threading.Event()
    read = threading.Semaphore(0)

    def counted(path, limits):
        image = read_image(path, limits)
        read.release()
        return image

    def predict(frames):
        if not passes.sizes:
            for _ in range(3):  # what is read while the first pass runs goes with the next
                assert read.acquire(timeout=20)
            release.wait(0.2)
        return Passes.predict(passes, frames)

    monkeypatch.setattr(infer, "read_image", counted)
    passes_model = type("Slow", (), {"predict": staticmethod(predict)})()
    handler, jobs = worker(passes_model, joins_frames=True, images=3, helpers=1)
    list(handler(jobs))
    assert sum(passes.sizes) == 3
    assert len(passes.sizes) <= 2


def test_one_bad_frame_ends_its_own_image_only(worker):
    bad = set()
    passes = Passes(refuses=lambda frames: any(frame.tobytes() in bad for frame in frames))
    handler, jobs = worker(passes, joins_frames=True, images=3)
    bad.add(handler._read(jobs[0]).image.panes[0].grey.tobytes())
    outcomes = {outcome.job.id: outcome.error for outcome in handler(jobs)}
    assert isinstance(outcomes[jobs[0].id], PredictionFailed)
    assert [outcomes[job.id] for job in jobs[1:]] == [None, None]


def test_threads_never_outnumber_the_cores():
    for cores in range(1, 65):
        helpers, threads = shares_of(cores)
        assert helpers * threads <= cores
        assert helpers >= 1
        assert threads >= 1
    assert shares_of(2) == (2, 1)
