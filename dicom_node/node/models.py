"""Bundles and their predictors: the only module that imports torch, and only when asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.config import DEFAULT_BUNDLE_NAME, Config
from dicom_node.core.errors import BundleUnusable, PredictionFailed
from dicom_node.dicom.results import BundleFacts

if TYPE_CHECKING:
    from dicom_node.work.make import Elastogram, Frame, Model, Predicts

log = logging.getLogger(__name__)


def models_of(config: Config, names: Sequence[str], *, threads: int | None = None) -> dict[str, Model]:
    """Load bundles and start their predictors. The only function that imports torch.

    threads  CPU threads of the network where the configuration does not say; None leaves it to the library.
    """
    from dicom_node.work.make import Model
    from model.bundle import DEFAULT_BUNDLE, read_bundle
    from model.errors import ModelError
    from model.predict import Predictor

    models = {}
    for name in names:
        where = config.bundles[name]
        section = config.inference
        try:
            bundle = read_bundle(DEFAULT_BUNDLE if where == DEFAULT_BUNDLE_NAME else Path(where))
            predictor = Predictor(
                bundle,
                device=section.device,
                precision=section.precision,
                threads=section.threads or threads,
            )
        except ModelError as error:
            raise BundleUnusable(f'"{name}" ({where}): {error}') from error
        facts = BundleFacts(
            name=bundle.name,
            version=bundle.version,
            weights_sha256=bundle.weights_sha256,
            colormap=f"{bundle.colormap.name}-{bundle.colormap.version}",
            # A bundle that does not say where its pairs came from is labelled as simulated.
            trained_on_simulation=bundle.training.get("simulated") is not False,
            trust_sha256=bundle.trust_sha256,
        )
        joins = predictor.device != "cpu"
        models[name] = Model(_Guarded(predictor, ModelError), facts, bundle.colormap.table, joins)
        log.info(
            "bundle loaded",
            extra={"action": "bundle-loaded", "bundle": bundle.id, "device": str(predictor.device)},
        )
    return models


class _Guarded:
    """A predictor that speaks the node's errors."""

    def __init__(self, predictor: Predicts, failure: type[Exception]) -> None:
        self._predictor = predictor
        self._failure = failure

    def predict(self, frames: Sequence[Frame]) -> Sequence[Elastogram]:
        try:
            return self._predictor.predict(frames)
        except self._failure as error:
            raise PredictionFailed(str(error)) from error
