"""One DICOM file, two readers, the same bits: what training learns from is what the node infers on."""

from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from dicom_node.core.rules import Route
from dicom_node.dicom.label import LabelSettings
from dicom_node.dicom.reading import ReadLimits, read_image
from dicom_node.dicom.results import BundleFacts, Equipment, ResultSettings
from dicom_node.store.database import open_database
from dicom_node.store.files import Layout
from dicom_node.store.jobs import claim
from dicom_node.store.process import Bells
from dicom_node.store.together import Together
from dicom_node.work.infer import Infer
from dicom_node.work.make import Appearance, Model
from dicom_node.work.receive import INFER_LANE, Reception
from harness import received_from
from model.bundle import DEFAULT_BUNDLE, read_bundle
from model.predict import Predictor
from peers.still import breast_still, region, write
from training.pairs.dicom import ImageSkipped, tensors_from_dicom

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

# The same grey levels, stored once as grey and once as R = G = B.
_DIGEST = "f94648591a6971ad8f44087a241fa0495df91d769abe45c61bd62ef3b5b03b4f"
GOLDEN = {"MONOCHROME2": _DIGEST, "RGB": _DIGEST}


@pytest.fixture(scope="module")
def predictor():
    return Predictor(read_bundle(DEFAULT_BUNDLE), device="cpu")


def still(photometric, folder):
    ds = breast_still(
        seed=5, rows=300, columns=400, photometric=photometric, regions=[region((30, 20, 370, 290))]
    )
    return write(ds, folder / f"{photometric}.dcm"), ds


class Watched:
    """The node's predictor, with what went into its network kept for comparison."""

    def __init__(self, predictor):
        self._predictor, self.tensors = predictor, []

    def predict(self, frames):
        network = self._predictor._inference._network
        hook = network.register_forward_pre_hook(lambda _, inputs: self.tensors.append(inputs[0].clone()))
        try:
            return self._predictor.predict(frames)
        finally:
            hook.remove()


def node_tensors(path, ds, folder, predictor):
    """What the worker's handler puts into the network for this file, received like any other."""
    layout = Layout(folder / "data")
    layout.create()
    database = open_database(layout.database, NOW)
    route = Route("breast", "EMODE", "default", ())
    reception = Reception(Together(database), layout, Bells(layout.bells), (route,), 3, lambda: NOW)
    reception.take(received_from(path, layout.incoming))
    watched = Watched(predictor)
    facts = BundleFacts("b", "1", "0" * 64, "c-1", trained_on_simulation=True)
    handler = Infer(
        database=database,
        layout=layout,
        routes={"breast": route},
        models={"default": Model(watched, facts, np.zeros((256, 3), np.uint8))},
        appearance=Appearance(LabelSettings(), ResultSettings(), Equipment("1", "1")),
        limits=ReadLimits(),
        delivery_attempts={},
    )
    with database.write() as conn:
        jobs = claim(conn, "infer", INFER_LANE, limit=1, owner="test", lease_s=60, now=NOW)
    outcomes = list(handler(jobs))
    database.close()
    assert [outcome.error for outcome in outcomes] == [None]
    return torch.cat(watched.tensors)


@pytest.mark.parametrize("photometric", list(GOLDEN))
def test_training_and_node_see_the_same_bits(photometric, tmp_path, predictor):
    path, ds = still(photometric, tmp_path)
    spec = predictor.bundle.preprocess
    trained = torch.stack(tensors_from_dicom(path, spec))
    inferred = node_tensors(path, ds, tmp_path, predictor)
    assert torch.equal(trained, inferred)
    assert trained.dtype == torch.float32
    image = read_image(path)
    # Beyond the two agreeing: they must not drift together, from version to version.
    assert image.panes[0].digest == GOLDEN[photometric]


def test_training_leaves_out_what_the_node_leaves_out(tmp_path, predictor):
    path = write(breast_still(pixels=np.zeros((240, 320), np.uint8)), tmp_path / "black.dcm")
    with pytest.raises(ImageSkipped, match=r"black\.dcm"):
        tensors_from_dicom(path, predictor.bundle.preprocess)
