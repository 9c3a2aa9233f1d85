"""How familiar a frame is: whether it looks like the breast B-mode that a model was made for.

A reference is a normal distribution over the traits of `model.look`; so is each kind of picture that is
known to be something else. A frame is strange that lies far from the reference (Mahalanobis distance),
nearer to one of these kinds than breast frames do (quadratic discriminant), or somewhat of both. Nothing of
any frame is kept, only means and covariances of traits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import BundleInvalid
from model.look import LOOK_VERSION, TRAITS, Values, look_of
from model.strict import JsonObject, read_keys

FAMILIAR_FROM = 0.02
"""Familiarity under which a frame is not taken for breast B-mode: two good frames in a hundred fall under
it where scanners look as they did to the reference, and what is not breast mostly lies far below."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Where looks of one sort lie: a normal distribution over n traits."""

    name: str
    centre: Values
    """(n,) mean of each trait."""
    precision: Values
    """(n, n) inverse of their covariance."""

    def distances_of(self, looks: Values) -> Values:
        """Squared Mahalanobis distance of looks (..., n): float64 (...)."""
        away = looks - self.centre
        return np.asarray(((away @ self.precision) * away).sum(axis=-1))


@dataclass(frozen=True, eq=False)
class Reference:
    """What frames of one origin look like, and how far they stay from what they must not look like."""

    cloud: Cloud
    """Named for people by where the frames came from: "stills", "training pairs"."""
    frames: int
    scales: Values
    """(kinds, 2) mean and deviation of how much nearer to a kind than to this reference frames of this origin
    lie, that were not fitted on: difference of squared distances."""
    log_distance: tuple[float, float]
    """Mean and deviation of ln(squared distance) of frames that were not fitted on."""
    likeness: tuple[float, float]
    """Mean and deviation of the greatest likeness of frames that were not fitted on."""
    strangeness: tuple[float, float]
    """Mean and deviation of `strangeness` of frames that were not fitted on."""

    def likenesses_of(self, look: Values, kinds: Sequence[Cloud]) -> Values:
        """Likeness (kinds,) of a look (n,) to each kind, in deviations from what is usual here."""
        return likenesses(self.cloud, kinds, look, self.scales)

    def share_beyond(self, look: Values, kinds: Sequence[Cloud]) -> float:
        """Expected share of unseen frames of this origin that are as strange or stranger, 0 to 1."""
        far = log(max(float(self.cloud.distances_of(look)), 1e-12))
        like = float(self.likenesses_of(look, kinds).max())
        mean, deviation = self.strangeness
        strange = float(strangeness(far, like, self.log_distance, self.likeness))
        return 0.5 * erfc((strange - mean) / deviation / sqrt(2))


Normal = tuple[float, float]
"""Mean and deviation."""


def strangeness(far: Values | float, like: Values | float, usual_far: Normal, usual_like: Normal) -> Values:
    """How far out and how like another kind, together, in deviations; what is not unusual counts as 0.

    A frame that is a little of both is stranger than one that is a little of either.
    """
    pairs = ((far, usual_far), (like, usual_like))
    parts = ((value - mean) / deviation for value, (mean, deviation) in pairs)
    return np.asarray(sum(np.maximum(part, 0.0) for part in parts))


def likenesses(
    here: Cloud, kinds: Sequence[Cloud], looks: Values, scales: Values | tuple[float, float] = (0.0, 1.0)
) -> Values:
    """How much nearer to each kind than to `here` looks (..., n) lie: (..., kinds), on the scales given."""
    nearer = np.stack([here.distances_of(looks) - kind.distances_of(looks) for kind in kinds], axis=-1)
    mean, deviation = np.asarray(scales, dtype=np.float64).T
    return np.asarray((nearer - mean) / deviation)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """The references of one bundle, and the kinds of other pictures that they know of."""

    references: tuple[Reference, ...]
    kinds: tuple[Cloud, ...]

    def of(self, frame: NDArray[np.uint8]) -> float:
        """Familiarity of a frame uint8 (H, W): 0 to 1.

        0.1 means: of breast frames like those that the reference was fitted on, but held out from it, about
        10 % look at least as strange, so it is nothing to worry about; under FAMILIAR_FROM a frame is
        something else. Half of all good frames are in no way strange and lie at the upper end, from 0.4
        on, where differences mean nothing. With several references the one that knows the frame best
        counts.

        Raises FrameInvalid if it is not a grey uint8 image.
        """
        return self.of_look(look_of(frame))

    def of_look(self, look: Values) -> float:
        """Familiarity of a frame with these traits (n,)."""
        return max(reference.share_beyond(look, self.kinds) for reference in self.references)

    def resembles(self, frame: NDArray[np.uint8]) -> str:
        """The kind of other picture that a frame is most like, for people; it may be like none."""
        look = look_of(frame)
        return self.kinds[int(np.argmin([float(kind.distances_of(look)) for kind in self.kinds]))].name

    def to_json(self) -> dict[str, Any]:
        return {
            "look_version": LOOK_VERSION,
            "traits": list(TRAITS),
            "kinds": [_cloud_json(kind) for kind in self.kinds],
            "references": [
                {
                    **_cloud_json(reference.cloud),
                    "frames": reference.frames,
                    "scales": reference.scales.tolist(),
                    "log_distance": list(reference.log_distance),
                    "likeness": list(reference.likeness),
                    "strangeness": list(reference.strangeness),
                }
                for reference in self.references
            ],
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> "Familiarity":
        """Read what `to_json` wrote; BundleInvalid names the key and the fact."""
        table = read_keys(data, {"look_version", "traits", "kinds", "references"}, where, BundleInvalid)
        if table["look_version"] != LOOK_VERSION or table["traits"] != list(TRAITS):
            raise BundleInvalid(
                f"{where}: fitted on looks of version {table['look_version']}, this program measures version "
                f"{LOOK_VERSION}; export the bundle anew, or install the program that it was made for"
            )
        for key in ("kinds", "references"):
            if not isinstance(table[key], list) or not table[key]:
                raise BundleInvalid(f"{where}: {key} must be a list that is not empty")
        kinds = []
        for i, item in enumerate(table["kinds"]):
            place = f"{where}.kinds[{i}]"
            kinds.append(_cloud(read_keys(item, _CLOUD, place, BundleInvalid), place))
        references = [
            _reference(item, len(kinds), f"{where}.references[{i}]")
            for i, item in enumerate(table["references"])
        ]
        return cls(tuple(references), tuple(kinds))


_CLOUD = {"name", "centre", "precision"}


def _cloud_json(cloud: Cloud) -> dict[str, Any]:
    return {"name": cloud.name, "centre": cloud.centre.tolist(), "precision": cloud.precision.tolist()}


def _cloud(item: JsonObject, where: str) -> Cloud:
    n = len(TRAITS)
    if not isinstance(item["name"], str):
        raise BundleInvalid(f"{where}: name must be text")
    centre = _numbers(item, "centre", (n,), where)
    return Cloud(item["name"], centre, _numbers(item, "precision", (n, n), where))


def _reference(data: object, kinds: int, where: str) -> Reference:
    keys = _CLOUD | {"frames", "scales", "log_distance", "likeness", "strangeness"}
    item = read_keys(data, keys, where, BundleInvalid)
    if type(item["frames"]) is not int:
        raise BundleInvalid(f"{where}: frames must be a whole number")
    scales = _numbers(item, "scales", (kinds, 2), where)
    if not np.all(scales[:, 1] > 0):
        raise BundleInvalid(f"{where}.scales: every deviation must be above 0")
    return Reference(
        cloud=_cloud(item, where),
        frames=item["frames"],
        scales=scales,
        log_distance=_normal(item, "log_distance", where),
        likeness=_normal(item, "likeness", where),
        strangeness=_normal(item, "strangeness", where),
    )


def _normal(item: JsonObject, key: str, where: str) -> tuple[float, float]:
    mean, deviation = (float(value) for value in _numbers(item, key, (2,), where))
    if deviation <= 0:
        raise BundleInvalid(f"{where}.{key}: the deviation must be above 0")
    return mean, deviation


def _numbers(item: JsonObject, key: str, shape: tuple[int, ...], where: str) -> Values:
    try:
        values = np.array(item[key], dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != shape or not np.isfinite(values).all():
        raise BundleInvalid(f"{where}.{key} must be finite numbers of shape {shape}")
    return values
