"""How well familiarity was fitted, on frames that no reference was fitted on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from model.familiarity import FAMILIAR_FROM, Familiarity
from model.look import Values
from training.trust.familiarity import Kinds, Source, fit_familiarity


@dataclass(frozen=True)
class Share:
    """How many of some frames were flagged, with the 95 % interval of Wilson."""

    flagged: int
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Report:
    """Flags on frames that no reference was fitted on."""

    limit: float
    good: dict[str, Share]
    """Name of the frames -> breast frames flagged: should be few."""
    kinds: dict[str, Share]
    """Kind of other picture -> freshly drawn ones flagged: should be all."""
    unmet: dict[str, Share]
    """The same, each kind flagged by references that were never told of it."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def share_of(hits: int, n: int, z: float = 1.96) -> Share:
    """Interval of a share by Wilson (1927, 10.1080/01621459.1927.10502953); 0 to 1 for n = 0."""
    if n == 0:
        return Share(0, 0, 0.0, 1.0)
    share, scale = hits / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return Share(hits, n, round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4))


def flagged(familiarity: Familiarity, looks: Sequence[Values] | Values) -> Share:
    """How many looks (N, traits) a model would not take for breast B-mode."""
    best = [familiarity.of_look(look) for look in looks]
    return share_of(sum(value < FAMILIAR_FROM for value in best), len(best))


def judge(sources: Sequence[Source], met: Kinds, good: dict[str, Sequence[Values]], fresh: Kinds) -> Report:
    """Fit, and count flags.

    sources, met  what references are fitted on.
    good          name -> looks of breast frames that are not among the sources.
    fresh         kind -> looks of other pictures, drawn anew.
    """
    fitted = fit_familiarity(sources, met)
    unmet = {}
    for kind, looks in fresh.items():
        others = {name: known for name, known in met.items() if name != kind}
        unmet[kind] = flagged(fit_familiarity(sources, others), looks)
    return Report(
        limit=FAMILIAR_FROM,
        good={name: flagged(fitted, looks) for name, looks in good.items()},
        kinds={kind: flagged(fitted, looks) for kind, looks in fresh.items()},
        unmet=unmet,
    )
