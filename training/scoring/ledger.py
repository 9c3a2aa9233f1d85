"""The numbers of each pair as they come in, and their sum."""

import math
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.inference import Elastogram
from training.errors import TooFewPairs
from training.pairs.pair import Pair
from training.scoring.agreement import Agreement, agreement
from training.scoring.clinical import Clinical
from training.scoring.confidence import PixelScores, score_pixels, summarise
from training.scoring.intervals import bootstrap, share_of_way
from training.scoring.measures import MEASURES, Measured
from training.scoring.report import Region, Report, Scores, StrainRatios, without_nan

CANDIDATES = ("generated", "mean_map", "shuffled", "repeat_scan")

FEWEST = 3
"""Groups under which nothing can be said of how scores vary."""

_TOLD = ("seed", "look", "kind", "stiffness_kind", "label")
"""Entries of `info` that go into a report; whatever else a hospital wrote there stays where it is."""


def name_of(pair: Pair, index: int) -> str:
    """Place and digest of a pair: two evaluations were of the same pairs if these agree."""
    return f"{index:06d}-{zlib.crc32(np.ascontiguousarray(pair.bmode).tobytes()):08x}"


def group_of(pair: Pair, index: int) -> str:
    """What the pair must be drawn together with: its group where it names one, else itself."""
    group = pair.info.get("group")
    return f"pair {index:06d}" if group in (None, "") else str(group)


class Ledger:
    """The numbers of each pair as they come in."""

    def __init__(self) -> None:
        self.columns: dict[tuple[str, str], list[float]] = {
            (name, key): [] for name in CANDIDATES for key in MEASURES
        }
        self.names: list[str] = []
        self.groups: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.kinds: list[list[str]] = []
        self.agreements: list[float] = []
        self.stages: dict[str, list[int]] = {name: [] for name in ("truth", *CANDIDATES)}
        self.stage_groups: list[str] = []
        self.bounds = 0
        self.pixels: list[PixelScores] = []
        self.pixel_groups: list[str] = []
        self.confidence: list[float] = []
        self.confidence_nccs: list[float] = []
        self.confidence_groups: list[str] = []

    def add(
        self, index: int, pair: Pair, made: Elastogram, true: Clinical | None, measured: dict[str, Measured]
    ) -> None:
        group = group_of(pair, index)
        for name, one in measured.items():
            for key, value in one.values.items():
                self.columns[name, key].append(value)
        own = measured["generated"]
        self.names.append(name_of(pair, index))
        self.groups.append(group)
        self.agreements.append(made.agreement)
        self.kinds.append(_kinds(pair))
        row: dict[str, Any] = {"index": index, "group": group}
        row |= {key: pair.info[key] for key in _TOLD if key in pair.info}
        row |= {"image": own.values["ncc"], "lesion_box": own.values["ncc_lesion_box"]}
        row["measures"] = {key: round(value, 4) for key, value in own.values.items()}
        if true is not None and own.clinical is not None:
            row["true"], row["generated"] = asdict(true), asdict(own.clinical)
            self.bounds += math.isnan(own.values["strain_ratio_error"])
            self.stages["truth"].append(true.tsukuba)
            for name, one in measured.items():
                assert one.clinical is not None
                self.stages[name].append(one.clinical.tsukuba)
            self.stage_groups.append(group)
        if made.spread is not None:
            pixel = score_pixels(made.spread, np.abs(made.strain - pair.strain))
            self.pixels.append(pixel)
            self.pixel_groups.append(group)
            row["mean_spread"] = round(pixel.mean_spread, 4)
        confidence = getattr(made, "confidence", None)
        if confidence is not None:
            self.confidence.append(confidence)
            self.confidence_nccs.append(own.values["ncc"])
            self.confidence_groups.append(group)
            row["confidence"] = round(confidence, 4)
        self.rows.append(without_nan(row, digits=4))

    def report(self, *, simulated: bool, mean_map_from: str) -> Report:
        if (n := len(set(self.groups))) < FEWEST:
            raise TooFewPairs(
                f"all {len(self.groups)} pairs come from {n} groups (patients), at least {FEWEST} are needed"
            )
        groups = np.asarray(self.groups)
        everything = np.ones(len(groups), dtype=bool)
        measures = {key: found for key in MEASURES if (found := self._region(key, groups, everything))}
        errors = np.asarray(self.columns["generated", "strain_ratio_error"])
        known = errors[np.isfinite(errors)]
        return Report(
            pairs=len(groups),
            groups=n,
            simulated=simulated,
            mean_map_from=mean_map_from,
            agreement=round(float(np.mean(self.agreements)), 5),
            image=measures["ncc"],
            lesion_box=measures.get("ncc_lesion_box"),
            measures=measures,
            strain_ratio=StrainRatios(
                len(known), self.bounds, round(float(np.exp(known.mean())), 4) if len(known) else None
            ),
            tsukuba=self._tsukuba(),
            by_kind=self._by_kind(groups),
            confidence=summarise(
                self.pixels, self.pixel_groups, self.confidence, self.confidence_nccs, self.confidence_groups
            ),
            scores=Scores(
                tuple(self.names),
                tuple(self.groups),
                {key: np.asarray(self.columns["generated", key]) for key in MEASURES},
            ),
            per_pair=self.rows,
        )

    def _region(self, key: str, groups: NDArray[Any], chosen: NDArray[np.bool_]) -> Region | None:
        """Sum up one measure over chosen pairs to which it applies, for all candidates alike."""
        table = np.column_stack([self.columns[name, key] for name in CANDIDATES])
        chosen = chosen & np.isfinite(table).all(axis=1)
        names = groups[chosen].tolist()
        if len(set(names)) < FEWEST:
            return None
        by_name = dict(zip(CANDIDATES, table[chosen].T, strict=True))
        gain = by_name["generated"] - by_name["mean_map"]
        return Region(
            **{name: bootstrap(column, names) for name, column in by_name.items()},
            above_mean_map=bootstrap(gain if MEASURES[key].better == "more" else -gain, names),
            share_of_way=share_of_way(
                by_name["generated"],
                by_name["mean_map"],
                by_name["repeat_scan"],
                names,
                MEASURES[key].better,
            ),
        )

    def _tsukuba(self) -> dict[str, Agreement]:
        if len(set(self.stage_groups)) < FEWEST:
            return {}
        truth = self.stages["truth"]
        return {name: agreement(truth, self.stages[name], self.stage_groups) for name in CANDIDATES}

    def _by_kind(self, groups: NDArray[Any]) -> dict[str, dict[str, Region]]:
        found: dict[str, dict[str, Region]] = {}
        for kind in sorted({kind for kinds in self.kinds for kind in kinds}):
            chosen = np.array([kind in kinds for kinds in self.kinds])
            regions = {
                key: region
                for key in ("ncc", "ncc_lesion_box", "contrast_sign")
                if (region := self._region(key, groups, chosen))
            }
            if regions:
                found[kind] = regions
        return found


def _kinds(pair: Pair) -> list[str]:
    """The names under which a pair is counted: its kind or label, and whether its look misleads."""
    kind, stiffness = (pair.info.get(key) for key in ("kind", "stiffness_kind"))
    found = [str(value) for value in dict.fromkeys((kind, pair.info.get("label"))) if value is not None]
    if kind is not None and stiffness is not None:
        found.append("look and stiffness agree" if kind == stiffness else "look contradicts stiffness")
    return found
