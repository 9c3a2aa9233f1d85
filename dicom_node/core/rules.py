"""Routes: which images are ours, which bundle reads them, where the results go."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from dicom_node.core.image import Arrival, ImageHeader
from dicom_node.core.terms import quotable


class DeliverWhen(StrEnum):
    """When a route sends its results."""

    AT_ONCE = "at-once"
    WHEN_SETTLED = "when-settled"


PRIORITIES = {"stat": 0, "high": 10, "routine": 20, "low": 30}
"""Name in the configuration -> rank in the queue; the smaller is served first."""


@dataclass(frozen=True, slots=True)
class Match:
    """Which images a route takes; an empty condition takes all, an empty string in a list takes "absent".

    Body parts and modalities compare without case. Descriptions are regular expressions, searched
    without case in study and series description together.
    """

    modality: tuple[str, ...] = ()
    sop_class: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    calling_ae_title: tuple[str, ...] = ()
    description: re.Pattern[str] | None = None
    description_not: re.Pattern[str] | None = None

    def mismatch(self, header: ImageHeader, arrival: Arrival) -> str | None:
        """Say why the image is not taken, or None if it is."""
        described = f"{header.study_description}\n{header.series_description}"
        listed = (
            ("modality", header.modality.upper(), tuple(m.upper() for m in self.modality)),
            ("SOP class", header.sop_class_uid, self.sop_class),
            ("body part", header.body_part.upper(), tuple(b.upper() for b in self.body_part)),
            ("calling AE title", arrival.calling_ae_title, self.calling_ae_title),
        )
        for name, value, allowed in listed:
            if allowed and value not in allowed:
                # Anything may stand in a code string; only the standard's own terms are no name.
                shown = quotable(value.upper()) if name in ("modality", "body part") else value
                return f"{name} is {shown or 'absent'}, wanted {' or '.join(a or 'absent' for a in allowed)}"
        # Descriptions are free text and may name the patient: say which rule decided, not what it read.
        if self.description is not None and not self.description.search(described):
            return f"no description matches {self.description.pattern!r}"
        if self.description_not is not None and self.description_not.search(described):
            return f"a description matches {self.description_not.pattern!r}"
        return None


@dataclass(frozen=True, slots=True)
class Route:
    """One way through the node, chosen by the called AE title and a match."""

    name: str
    called_ae_title: str
    bundle: str
    destinations: tuple[str, ...]
    match: Match = field(default_factory=Match)
    priority: int = PRIORITIES["routine"]
    deliver: DeliverWhen = DeliverWhen.AT_ONCE


@dataclass(frozen=True, slots=True)
class Choice:
    """The route that takes an image, if any, and why each route before it did not."""

    route: Route | None
    passed_over: tuple[tuple[str, str], ...]
    """(route name, reason), in the order tried."""


def choose_route(routes: tuple[Route, ...], header: ImageHeader, arrival: Arrival) -> Choice:
    """Take the first route of the called AE title whose match fits."""
    passed_over: list[tuple[str, str]] = []
    for route in routes:
        if route.called_ae_title != arrival.called_ae_title:
            continue
        reason = route.match.mismatch(header, arrival)
        if reason is None:
            return Choice(route, tuple(passed_over))
        passed_over.append((route.name, reason))
    return Choice(None, tuple(passed_over))
