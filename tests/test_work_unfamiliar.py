"""What the worker does with frames that the model was not made for, and with a model that fails its check."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_node.cli.main import app
from dicom_node.core.errors import PredictionFailed
from dicom_node.core.job import JobKind, RetryPolicy
from dicom_node.core.rules import Route
from dicom_node.dicom.label import UNFAMILIAR_WORDS, LabelSettings
from dicom_node.dicom.reading import ReadLimits, read_image
from dicom_node.dicom.results import BundleFacts, Equipment, ResultSettings
from dicom_node.dicom.skip import Skip, SkipCode
from dicom_node.node import models
from dicom_node.store import overview
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.process import Bells
from dicom_node.store.together import Together
from dicom_node.work.infer import Infer
from dicom_node.work.loop import Lane, WorkLoop
from dicom_node.work.make import Appearance, Model, draw, identify, leave_unfamiliar, make_results
from dicom_node.work.pulse import Pulse
from dicom_node.work.receive import INFER_LANE, Reception
from harness import received_from
from model.bundle import DEFAULT_BUNDLE, read_bundle, write_bundle
from model.predict import Predictor
from model.trust import Trust
from peers.still import breast_still, region, write

FACTS = BundleFacts("b", "1", "0" * 64, "c-1", trained_on_simulation=True, trust_sha256="1" * 64)
GREYS = np.stack([np.arange(256, dtype=np.uint8)] * 3, axis=-1)
APPEARANCE = Appearance(LabelSettings(), ResultSettings(), Equipment("1", "1"))
ENDS = ("made", "skipped", "failed")
TWO_PANES = [region((10, 20, 190, 290)), region((210, 20, 390, 290))]


@dataclass(frozen=True)
class Made:
    strain: np.ndarray
    colour: np.ndarray
    familiarity: float | None
    confidence: float | None = 0.8125

    @property
    def unfamiliar(self) -> bool:
        return self.familiarity is not None and self.familiarity < 0.02

    @property
    def resembles(self) -> str | None:
        return "probe in air" if self.unfamiliar else None


class Says:
    """A predictor that finds frames as familiar as the test wants, in turn; an error is raised."""

    def __init__(self, *familiarity: float | Exception | None) -> None:
        self._turns = iter(familiarity)

    def predict(self, frames: Sequence[np.ndarray]) -> list[Made]:
        made = []
        for frame in frames:
            turn = next(self._turns)
            if isinstance(turn, Exception):
                raise turn
            strain = frame.astype(np.float32) / 255
            made.append(Made(strain, np.repeat(frame[..., None], 3, axis=2), turn))
        return made


def now() -> datetime:
    return datetime.now(UTC)


class Worker:
    """Reception, queue and worker's loop on a folder of their own; the model is the test's."""

    def __init__(self, folder, predictor, policy="skip"):
        self.layout = Layout(folder / "data")
        self.layout.create()
        self.database = open_database(self.layout.database, now())
        self.bells = Bells(self.layout.bells)
        self.route = Route("breast", "EMODE", "default", ())
        self.folder, self.stop = folder, threading.Event()
        handler = Infer(
            database=self.database,
            layout=self.layout,
            routes={"breast": self.route},
            models={"default": Model(predictor, FACTS, GREYS, joins_frames=False)},
            appearance=APPEARANCE,
            limits=ReadLimits(),
            delivery_attempts={},
            unfamiliar=policy,
        )
        lane = Lane(
            JobKind.INFER, INFER_LANE, batch=8, policy=RetryPolicy(0.01, 1.0), time_limit_s=60, pulse=Pulse()
        )
        self.loop = WorkLoop(
            lane, self.database, self.bells, handler, owner="test:1", clock=now, on_hang=lambda claimed: None
        )

    def send(self, number=0, regions=()):
        ds = breast_still(seed=number, rows=300, columns=400, regions=list(regions) or None)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        reception = Reception(Together(self.database), self.layout, self.bells, (self.route,), 3, now)
        path = write(ds, self.layout.root / f"image-{number}.dcm")
        reception.take(received_from(path, self.layout.incoming))

    def work(self, images=1):
        """Run until every image is decided or its job has failed; return what operators see."""
        thread = threading.Thread(target=self.loop.run, args=(self.stop,))
        thread.start()
        deadline = time.monotonic() + 30
        try:
            while True:
                with self.database.read() as conn:
                    lines = overview.image_lines(conn, study=None, limit=10)
                if len(lines) == images and all(line.stage in ENDS for line in lines):
                    return lines
                assert time.monotonic() < deadline, lines
                time.sleep(0.02)
        finally:
            self.stop.set()
            self.bells.ring(JobKind.INFER, INFER_LANE)
            thread.join(15)

    def results(self):
        """Every result file that is kept."""
        return [dcmread(path) for path in sorted((self.layout.root / "result").rglob("*")) if path.is_file()]


@pytest.fixture
def worker(tmp_path) -> Iterator[object]:
    made = []

    def make(predictor, policy="skip"):
        made.append(Worker(tmp_path, predictor, policy))
        return made[-1]

    yield make
    for one in made:
        one.database.close()


def test_an_unfamiliar_frame_is_left_alone_with_its_reason(worker):
    node = worker(Says(0.0003))
    node.send()
    (line,) = node.work()
    assert (line.stage, line.skip_code, line.results) == ("skipped", "unfamiliar", ())
    assert line.skip_sentence.startswith("Its familiarity is 0.0003 of 1;")
    assert "most like: probe in air. The picture does not look like the breast B-mode" in line.skip_sentence
    assert "inference.unfamiliar" in line.skip_sentence
    assert node.results() == []


@pytest.mark.parametrize("familiarity", [0.5, None])
def test_a_familiar_frame_gets_a_result_that_says_how_sure_it_is(worker, familiarity):
    node = worker(Says(familiarity))
    node.send()
    (line,) = node.work()
    (ds,) = node.results()
    assert line.stage == "made"
    assert UNFAMILIAR_WORDS not in ds.ImageComments
    assert "model confidence 0.81 of 1" in ds.DerivationDescription
    assert ("familiarity of the image 0.5 of 1" in ds.DerivationDescription) == (familiarity is not None)
    block = ds.private_block(0x0099, "EMODE PROVENANCE 1")
    assert float(block[0x09].value) == pytest.approx(0.8125, abs=1e-4)
    assert (0x08 in block) == (familiarity is not None)


def test_marked_results_say_it_in_the_picture_and_in_attributes(worker, tmp_path):
    path = write(breast_still(seed=0, rows=300, columns=400), tmp_path / "a.dcm")
    image, model = read_image(path), Model(Says(0.5), FACTS, GREYS)
    usual_picture = draw(image.panes[0], model.predictor.predict([image.panes[0].grey])[0], model, APPEARANCE)
    node = worker(Says(0.001), "mark")
    node.send()
    (line,) = node.work()
    (ds,) = node.results()
    assert line.stage == "made"
    assert ds.ImageComments.startswith("AI SYNTHETIC - NOT MEASURED")
    assert ds.ImageComments.endswith(UNFAMILIAR_WORDS)
    assert ds.DerivationDescription.endswith("the image is unlike those that the model learnt from")
    # The label above the panes is longer than usual, and nothing else is.
    marked, usual = ds.pixel_array, usual_picture.pixels
    rows = usual_picture.emode_box[3] - usual_picture.emode_box[1]
    assert marked.shape[0] >= usual.shape[0]
    assert np.count_nonzero(marked[: -rows or None]) > np.count_nonzero(usual[: -rows or None])


def test_of_two_panes_the_familiar_one_gets_its_result(worker):
    node = worker(Says(0.001, 0.5))
    node.send(regions=TWO_PANES)
    (line,) = node.work()
    assert (line.stage, len(line.results)) == ("made", 1)
    (ds,) = node.results()
    assert int(ds.InstanceNumber) > 1000  # the second pane's


def test_a_result_that_fails_its_self_check_is_never_made(worker):
    error = PredictionFailed("b-1 on cpu in fp32: strain read back from the colours is off by 0.3")
    node = worker(Says(error, 0.5))
    node.send(0)
    node.send(1)
    lines = {line.sop_instance_uid: line for line in node.work(images=2)}
    assert {uid: line.stage for uid, line in lines.items()} == {"1.2.3.0": "failed", "1.2.3.1": "made"}
    failed = lines["1.2.3.0"]
    assert failed.job_error is not None
    assert "off by 0.3" in failed.job_error
    assert [str(ds.SourceImageSequence[0].ReferencedSOPInstanceUID) for ds in node.results()] == ["1.2.3.1"]


@pytest.mark.parametrize("cause", ["not finite", "heads disagree"])
def test_the_nodes_predictor_turns_a_failed_check_into_a_failed_prediction(cause, monkeypatch):
    predictor = Predictor(read_bundle(DEFAULT_BUNDLE), device="cpu")
    frame = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)
    inside = predictor._inference
    if cause == "not finite":
        network = inside._network

        def broken(x):
            output = network(x)
            return output._replace(strain=output.strain * float("nan"))

        monkeypatch.setattr(inside, "_network", broken)
    else:
        (made,) = inside.predict([frame])
        # The picture of another map: red where it should be blue.
        monkeypatch.setattr(inside, "predict", lambda frames: [replace(made, agreement=0.4)])
    from model.errors import ModelError

    with pytest.raises(PredictionFailed, match=r"not numbers|contradict each other"):
        models._Guarded(predictor, ModelError).predict([frame])


def test_trust_changes_who_a_result_is_and_bundles_without_it_change_nothing(tmp_path):
    path = write(breast_still(seed=1, rows=300, columns=400), tmp_path / "a.dcm")
    image = read_image(path)
    of = {
        facts.trust_sha256: identify(image, image.panes[0], Model(Says(), facts, GREYS), APPEARANCE)
        for facts in (FACTS, replace(FACTS, trust_sha256="2" * 64), replace(FACTS, trust_sha256=""))
    }
    assert len({identity.sop_instance_uid for identity in of.values()}) == 3


def test_a_policy_never_loses_a_familiar_pane(tmp_path):
    path = write(breast_still(rows=300, columns=400, regions=TWO_PANES), tmp_path / "a.dcm")
    image = read_image(path)
    model = Model(Says(0.5, 0.6), FACTS, GREYS)
    made = model.predictor.predict([pane.grey for pane in image.panes])
    for policy in ("skip", "mark"):
        kept, elastograms = leave_unfamiliar(image, made, policy)
        assert (kept.panes, list(elastograms)) == (image.panes, made)
    results = list(make_results(path, image, made, model, APPEARANCE, created_at=now()))
    assert len(results) == 2
    strange = [replace(one, familiarity=0.0) for one in made]
    left = leave_unfamiliar(image, strange, "skip")
    assert isinstance(left, Skip)
    assert left.code is SkipCode.UNFAMILIAR


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The default bundle, told that nothing it sees is familiar."""
    from test_model_familiarity import known

    folder = tmp_path_factory.mktemp("node")
    shipped = read_bundle(DEFAULT_BUNDLE)
    write_bundle(replace(shipped, trust=Trust(known(1e3))), folder / "bundle")
    write(breast_still(seed=1, rows=300, columns=400), folder / "a.dcm")
    config = {
        "data_dir": str(folder / "data"),
        "accept_unknown_peers": True,
        "destinations": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}},
        "bundles": {"strict": str(folder / "bundle")},
        "routes": [
            {"name": "breast", "bundle": "strict", "destinations": ["pacs"], "match": {"body_part": []}}
        ],
    }
    (folder / "node.yaml").write_text(json.dumps(config))
    return folder


class TestCommands:
    def run(self, *arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def test_apply_leaves_it_alone(self, config, tmp_path):
        (row,) = self.run(
            "apply", config / "a.dcm", "-o", tmp_path, "--bundle", "strict",
            "--config", config / "node.yaml", "--json",
        )  # fmt: skip
        assert (row["outcome"], row["code"]) == ("skipped", "unfamiliar")
        assert list(tmp_path.glob("*.dcm")) == []

    def test_inspect_asks_the_model_when_told_to(self, config):
        arguments = ("inspect", config / "a.dcm", "--config", config / "node.yaml", "--json")
        assert self.run(*arguments)["decision"] == "accepted"
        asked = self.run(*arguments, "--model")
        assert (asked["decision"], asked["code"]) == ("skipped", "unfamiliar")
        (said,) = asked["judged"]
        assert said["familiarity"] < 1e-9
        assert said["confidence"] is None
