"""Fit what is familiar: references from stills and simulated frames, and what they must not look like."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from model.familiarity import Cloud, Familiarity, Reference, likenesses, strangeness
from model.look import Values, look_of
from training.errors import TooFewFrames
from training.trust.looks import Frame, vary
from training.trust.strangers import STRANGERS, Stranger

FOLDS = 5
LOOKS_PER_FRAME = 3
"""Enough that scanners, not only patients, differ in what a reference is fitted on."""
SHRINKAGE = 0.1
"""Share of each covariance that is taken for chance: many traits of a few hundred frames."""
KIND_SHARE = 0.3
"""Share of the covariance of a kind that is that of all kinds."""
EXTREMES = 0.03
"""Share of varied looks that are left out for being the strangest."""
MIN_GROUPS = 20
STRANGERS_PER_KIND = 60
_SEED = 20240603
_HIGH = (0.99, 2.326)
"""A high quantile and where a normal distribution has it, in deviations: that side must be right."""


@dataclass(frozen=True, eq=False)
class Source:
    """The looks of one origin: what a reference is fitted on."""

    name: str
    looks: Values
    """float64 (N, traits), of frames and of most of their varied looks."""
    folds: tuple[int, ...]
    """(N,) 0 to FOLDS - 1; a group is held out whole."""
    frames: int


Kinds = Mapping[str, Values]
"""Kind of other picture -> its looks, float64 (N, traits)."""


def gather(name: str, frames: Iterable[tuple[str, Frame]], *, looks: int = LOOKS_PER_FRAME) -> Source:
    """Measure frames and varied looks of them.

    frames  (group, uint8 (H, W)); frames of one group are held out together.
    looks   varied looks for each frame, beside the frame as it is.

    Raises TooFewFrames under MIN_GROUPS groups.
    """
    measured: list[Values] = []
    folds: list[int] = []
    groups: set[str] = set()
    for number, (group, frame) in enumerate(frames):
        rng = np.random.default_rng([_SEED, number])
        shown = [frame] + [vary(rng, frame) for _ in range(looks)]
        measured += [look_of(one) for one in shown]
        folds += [crc32(group.encode()) % FOLDS] * len(shown)
        groups.add(group)
    if len(groups) < MIN_GROUPS:
        raise TooFewFrames(f"{name}: {len(groups)} groups of frames, at least {MIN_GROUPS} are needed")
    every = np.array(measured)
    kept = _without_extremes(every, np.arange(len(every)) % (1 + looks) > 0)
    return Source(name, every[kept], tuple(np.array(folds)[kept].tolist()), len(every) // (1 + looks))


def _without_extremes(looks: Values, varied: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which looks to keep (N,): every frame as it is, and all but the strangest of those varied by chance.

    Chance now and then draws every change at once, as no scanner would; a few such looks would widen a
    reference until a heart is familiar.
    """
    if not varied.any():
        return ~varied
    distances = _cloud_of("all", looks).distances_of(looks)
    return np.asarray(~varied | (distances <= np.quantile(distances[varied], 1 - EXTREMES)))


def meet_strangers(
    frames: Sequence[Frame], strangers: Mapping[str, Stranger] = STRANGERS, seed: int = _SEED
) -> Kinds:
    """Draw and measure every kind of other picture; some start from the breast frames given."""
    met = {}
    for kind, draw in strangers.items():
        rng = np.random.default_rng([seed, crc32(kind.encode())])
        picks = rng.integers(0, len(frames), STRANGERS_PER_KIND)
        met[kind] = np.array([look_of(draw(rng, frames[pick])) for pick in picks])
    return met


def fit_familiarity(sources: Sequence[Source], kinds: Kinds) -> Familiarity:
    """Fit a reference for each source, away from each kind of other picture; deterministic."""
    known = fit_kinds(kinds)
    return Familiarity(tuple(_fit(source, known) for source in sources), known)


def fit_kinds(kinds: Kinds) -> tuple[Cloud, ...]:
    """A cloud for each kind; part of its covariance is that of all kinds, as few of each were met."""
    covariances = {kind: np.cov(looks.T) for kind, looks in kinds.items()}
    common = np.mean(list(covariances.values()), axis=0)
    return tuple(
        Cloud(
            kind,
            np.asarray(looks.mean(axis=0), np.float64),
            # Black is black to the last digit: without a floor the least difference would be no likeness.
            _inverse((1 - KIND_SHARE) * covariances[kind] + KIND_SHARE * common, floor=1e-2),
        )
        for kind, looks in kinds.items()
    )


def _fit(source: Source, kinds: Sequence[Cloud]) -> Reference:
    folds = np.array(source.folds)
    distances, nearer = np.empty(len(folds)), np.empty((len(folds), len(kinds)))
    for fold in np.unique(folds):
        held_out = folds == fold
        part = _cloud_of(source.name, source.looks[~held_out])
        distances[held_out] = part.distances_of(source.looks[held_out])
        nearer[held_out] = likenesses(part, kinds, source.looks[held_out])
    # Each kind on its own scale first: breast comes near to some (upside down), hardly to others.
    scales = np.array([_upper_half(column) for column in nearer.T])
    greatest = ((nearer - scales[:, 0]) / scales[:, 1]).max(axis=1)
    far = np.log(np.maximum(distances, 1e-12))
    usual = _upper_half(far), _upper_half(greatest)
    both = strangeness(far, greatest, *usual)
    return Reference(
        _cloud_of(source.name, source.looks), source.frames, scales, *usual, strangeness=_upper_half(both)
    )


def _cloud_of(name: str, looks: Values) -> Cloud:
    centre = np.asarray(looks.mean(axis=0), np.float64)
    return Cloud(name, centre, _inverse(np.cov(looks.T), floor=1e-4))


def _inverse(covariance: Values, *, floor: float) -> Values:
    variances = np.maximum(np.diag(covariance), floor)
    shrunk = (1 - SHRINKAGE) * covariance
    np.fill_diagonal(shrunk, variances)
    return np.asarray(np.linalg.inv(shrunk), np.float64)


def _upper_half(values: Values) -> tuple[float, float]:
    """Mean and deviation of the normal distribution with the same median and high quantile."""
    share, deviations = _HIGH
    middle, high = np.quantile(values, [0.5, share])
    return float(middle), max(float(high - middle) / deviations, 1e-3)
