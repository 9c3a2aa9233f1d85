"""What a result is made of besides pixels: equipment, weights, settings, and the UIDs they lead to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from dicom_node.core.identity import Fact, derive_uid
from dicom_node.core.image import ImageHeader
from dicom_node.dicom.label import LabelSettings
from dicom_node.dicom.marks import MANUFACTURER, MODEL_NAME, WEIGHTS_WORDS
from dicom_node.dicom.reading import Pane

SCHEMA_VERSION = 1
"""Raise it when a change here gives the same inputs another object: part of every result's UID."""

LO_LENGTH = 64
"""Characters of one value of an LO element (PS3.5 6.2)."""

BurnedInPolicy = Literal["from-region", "yes"]
Qualification = Literal["RESEARCH", "PRODUCT"]


@dataclass(frozen=True, slots=True)
class Equipment:
    """The node as equipment (PS3.3 C.7.5.1). ASCII, at most 64 characters each."""

    device_serial: str
    software_version: str
    manufacturer: str = MANUFACTURER
    model_name: str = MODEL_NAME
    institution: str = ""
    station_name: str = ""
    udi: str = ""
    """Unique Device Identifier, once the product has one."""


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """The weights that made the result."""

    name: str
    version: str
    weights_sha256: str
    colormap: str
    trained_on_simulation: bool
    trust_sha256: str = ""
    """Digest of what the bundle knows of its limits, since results repeat it; empty if it knows nothing."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the model says of its own result; None where its bundle cannot say. None of it is clinical."""

    familiarity: float | None = None
    """0 to 1: about the share of good frames that look at least as strange; small is strange."""
    confidence: float | None = None
    """0 to 1: the correlation with the true strain to expect, as on pairs like those it learnt from."""
    unfamiliar: bool = False
    """The frame does not look like breast B-mode to the model."""


UNJUDGED = Judgement()
"""Of bundles that cannot say."""


@dataclass(frozen=True, slots=True)
class ResultSettings:
    """What a site decides about results."""

    series_description: str = "AI SYNTHETIC strain elastography (not measured)"
    """ASCII, at most 64 characters; the first words are what an archive's list shows."""
    series_number_base: int = 9000
    """The result series of source series 3 is number 9003."""
    content_qualification: Qualification = "RESEARCH"
    """PRODUCT only for a bundle that is cleared as a product (PS3.3 C.8.13.2.1.1)."""
    body_part_default: str = ""
    """Body Part Examined where the source has none: "BREAST" on a route that takes nothing else."""
    burned_in_policy: BurnedInPolicy = "from-region"
    """Burned In Annotation of a pane cut out by the scanner's own region: NO, or "yes" where scanners of
    this site write names into the tissue area. A pane found by content always inherits, or says YES."""


@dataclass(frozen=True, slots=True)
class ResultIdentity:
    """The UIDs of one result."""

    sop_instance_uid: str
    series_instance_uid: str


def settings_digest(label: LabelSettings, settings: ResultSettings) -> str:
    """SHA-256, hexadecimal, over everything configured that changes a result."""
    font = hashlib.sha256(label.font_file.read_bytes()).hexdigest() if label.font_file else ""
    facts = {
        "label": [label.text, label.soft, label.hard, label.emode_title, label.bmode_title, label.layout],
        "label height": label.min_height_share,
        "font": font,
        "series": [settings.series_description, settings.series_number_base],
        "marks": [settings.content_qualification, settings.body_part_default, settings.burned_in_policy],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("ascii")).hexdigest()


def result_identity(
    header: ImageHeader, pane: Pane, frame_index: int | None, bundle: BundleFacts, settings_digest: str
) -> ResultIdentity:
    """Derive the UIDs: the same pixels, bundle and settings give the same, whatever the patient's data.

    The study is among the facts: a source that is moved to another study needs results there.
    An archive keeps the first object it gets under a UID, so everything that changes the picture is in it.
    """
    made_by: dict[str, Fact] = {
        "bundle": [bundle.name, bundle.version],
        "weights": bundle.weights_sha256,
        "settings": settings_digest,
        "kind": "secondary-capture-still",
        "schema": SCHEMA_VERSION,
    }
    if bundle.trust_sha256:
        made_by["trust"] = bundle.trust_sha256
    instance: dict[str, Fact] = {
        "study": header.study_instance_uid,
        "source": header.sop_instance_uid,
        "frames": [0 if frame_index is None else frame_index],
        "region": pane.index,
        "pixels": pane.digest,
        **made_by,
    }
    series: dict[str, Fact] = {
        "study": header.study_instance_uid,
        "source": header.series_instance_uid,
        **made_by,
    }
    return ResultIdentity(derive_uid("sop-instance", instance), derive_uid("series", series))


def software_versions(equipment: Equipment, bundle: BundleFacts) -> tuple[str, ...]:
    """Software Versions (0018,1020): program, bundle, the beginning of the hash of the weights."""
    return (
        equipment.software_version,
        f"{bundle.name} {bundle.version}"[:LO_LENGTH],
        f"{WEIGHTS_WORDS} {bundle.weights_sha256[:16]}",
    )
