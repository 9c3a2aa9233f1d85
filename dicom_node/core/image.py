"""What the node knows about one received image without looking at its pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The attributes that rules and bookkeeping need; no patient identity.

    Absent attributes are empty strings or zero, as a rule "body part is empty" wants them.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str = ""
    body_part: str = ""
    study_description: str = ""
    series_description: str = ""
    image_type: tuple[str, ...] = ()
    manufacturer: str = ""
    accession_number: str = ""
    instance_number: int | None = None
    rows: int = 0
    columns: int = 0
    frames: int = 1
    synthetic: bool = False
    """Does it say that it was made by processing and is synthetic, whoever made it? A simulator's original
    images are synthetic data too, and what this node's demonstration sends."""
    own_mark: str = ""
    """What tells that it is a result of this product, made here or by another node; empty if nothing does."""
    derived_from: tuple[str, ...] = ()
    """SOP Instance UIDs of its source images, as it names them."""

    @property
    def own_result(self) -> bool:
        """Is it a result of this product coming back?"""
        return bool(self.own_mark)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Who brought an image, and to which of our AE titles."""

    calling_ae_title: str
    called_ae_title: str
    address: str
