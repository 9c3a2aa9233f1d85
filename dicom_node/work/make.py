"""From one image to its result objects, without network, database or queue: the node's craft.

The service and `emode apply` both call this, so what is tested offline is what runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from dicom_node.core.identity import derive_uid
from dicom_node.core.image import ImageHeader
from dicom_node.dicom.header import load_source
from dicom_node.dicom.label import UNFAMILIAR_WORDS, LabelSettings, Picture, compose
from dicom_node.dicom.reading import Pane, SourceImage, pane_of
from dicom_node.dicom.results import (
    BundleFacts,
    Equipment,
    Judgement,
    ResultIdentity,
    ResultSettings,
    build_result,
    ensure_valid_result,
    result_identity,
    settings_digest,
)
from dicom_node.dicom.skip import Skip, SkipCode

Frame = NDArray[np.uint8]


class Elastogram(Protocol):
    """What the model makes of one frame."""

    @property
    def strain(self) -> NDArray[np.float32]:
        """Strain index, float32 (H, W) in [0, 1]; 1 is soft."""

    @property
    def colour(self) -> NDArray[np.uint8]:
        """Colour E-mode over the B-mode, uint8 (H, W, 3)."""

    @property
    def familiarity(self) -> float | None:
        """0 to 1; None if the bundle cannot say."""

    @property
    def unfamiliar(self) -> bool:
        """Does the frame not look like what the model was made for?"""

    @property
    def resembles(self) -> str | None:
        """What an unfamiliar frame is most like, for people."""

    @property
    def confidence(self) -> float | None:
        """0 to 1; None if the bundle cannot say."""


class Predicts(Protocol):
    """A model ready to run."""

    def predict(self, frames: Sequence[Frame]) -> Sequence[Elastogram]:
        """Map B-mode frames, uint8 (H, W) of any size, to elastograms of the same sizes.

        Raises PredictionFailed.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A running model and what results say about it."""

    predictor: Predicts
    facts: BundleFacts
    colours: NDArray[np.uint8]
    """The colour map, uint8 (256, 3); index 255 is soft."""
    joins_frames: bool = True
    """Is a batch one pass? If it is not, images are better run and finished one by one."""


Unfamiliar = Literal["skip", "mark"]
"""What becomes of a frame that the model was not made for: no result, or one that says so."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """Everything besides image and model that a result's content depends on."""

    label: LabelSettings
    results: ResultSettings
    equipment: Equipment

    @property
    def digest(self) -> str:
        """Changes whenever a result of the same image and model would look or read differently."""
        return settings_digest(self.label, self.results)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """One result, checked and ready to be written."""

    pane: Pane
    identity: ResultIdentity
    elastogram: Elastogram
    picture: Picture
    dataset: Dataset
    seconds: float


def identify(image: SourceImage, pane: Pane, model: Model, appearance: Appearance) -> ResultIdentity:
    """The UIDs this pane's result has, whoever makes it and however often."""
    return result_identity(image.header, pane, image.frame_index, model.facts, appearance.digest)


def leave_unfamiliar(
    image: SourceImage, elastograms: Sequence[Elastogram], policy: Unfamiliar
) -> tuple[SourceImage, Sequence[Elastogram]] | Skip:
    """Keep the panes that get a result: all under "mark", under "skip" the familiar ones.

    A Skip if none is left, with what was measured on the most familiar one.
    """
    if policy == "mark":
        return image, elastograms
    pairs = list(zip(image.panes, elastograms, strict=True))
    kept = [(pane, made) for pane, made in pairs if not made.unfamiliar]
    if kept or not pairs:
        panes = tuple(pane for pane, _ in kept)
        return replace(image, panes=panes), [made for _, made in kept]
    nearest = max(elastograms, key=lambda made: made.familiarity or 0.0)
    facts = f"Its familiarity is {nearest.familiarity or 0.0:.2g} of 1"
    if nearest.resembles is not None:
        facts += f"; of other pictures that were drawn for comparison it is most like: {nearest.resembles}"
    return Skip(SkipCode.UNFAMILIAR, facts)


def make_results(
    path: Path,
    image: SourceImage,
    elastograms: Sequence[Elastogram],
    model: Model,
    appearance: Appearance,
    *,
    created_at: datetime,
    wanted: Callable[[ResultIdentity], bool] = lambda identity: True,
) -> Iterator[Made]:
    """Compose, label, build and check a result for each pane.

    path        the source object; its patient and study elements are copied as they are.
    created_at  becomes Content Date and Time. The caller takes it from its records, not from the clock,
                so that doing the work again gives the same bytes.
    wanted      False for results that exist already.

    Raises ResultInvalid if an object fails its check.
    """
    source = load_source(path)
    for pane, elastogram in zip(image.panes, elastograms, strict=True):
        identity = identify(image, pane, model, appearance)
        if not wanted(identity):
            continue
        started = time.monotonic()
        picture = draw(pane, elastogram, model, appearance)
        said = judgement_of(elastogram)
        dataset = _build(source, image, pane, picture, identity, model, appearance, said, created_at)
        ensure_valid_result(dataset, source)
        yield Made(pane, identity, elastogram, picture, dataset, time.monotonic() - started)


def draw(pane: Pane, elastogram: Elastogram, model: Model, appearance: Appearance) -> Picture:
    """The labelled picture of one pane, as results show it."""
    label = appearance.label
    if elastogram.unfamiliar:
        label = replace(label, text=f"{label.text} - {UNFAMILIAR_WORDS}")
    return compose(pane.grey, elastogram.colour, model.colours, label, _footer(model.facts))


def judgement_of(elastogram: Elastogram) -> Judgement:
    """What the model says of its result, as the result repeats it."""
    return Judgement(elastogram.familiarity, elastogram.confidence, elastogram.unfamiliar)


def _build(
    source: Dataset,
    image: SourceImage,
    pane: Pane,
    picture: Picture,
    identity: ResultIdentity,
    model: Model,
    appearance: Appearance,
    judgement: Judgement,
    created_at: datetime,
) -> Dataset:
    return build_result(
        source,
        image,
        pane,
        picture,
        identity,
        model.facts,
        appearance.equipment,
        appearance.results,
        created_at,
        judgement,
    )


def _footer(facts: BundleFacts) -> str:
    trained = "trained on simulated strain" if facts.trained_on_simulation else ""
    return " - ".join(filter(None, (f"{facts.name} {facts.version}", trained)))


def warm_up(model: Model, appearance: Appearance) -> None:
    """Make and drop one result, so that the first patient does not wait for tables to load (0.4 s)."""
    uid = derive_uid("warm-up", {})
    header = ImageHeader(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.6.1",
        sop_instance_uid=uid,
        study_instance_uid=uid,
        series_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    pane = pane_of(0, (0, 0, 128, 128), None, "image-content", np.zeros((128, 128), np.uint8))
    image = SourceImage(header, None, 1, (pane,))
    (elastogram,) = model.predictor.predict([pane.grey])
    picture = draw(pane, elastogram, model, appearance)
    source = Dataset()
    source.file_meta = FileMetaDataset()
    source.file_meta.TransferSyntaxUID = UID(header.transfer_syntax_uid)
    identity = identify(image, pane, model, appearance)
    said = judgement_of(elastogram)
    _build(source, image, pane, picture, identity, model, appearance, said, datetime.now(UTC))
