"""Reports as tables for the terminal: what a newcomer has to know is in the table itself."""

from rich.table import Table

from training.scoring.compare import Comparison
from training.scoring.intervals import Interval, Share
from training.scoring.measures import MEASURES
from training.scoring.report import Report

ARROW = {"more": "↑", "less": "↓"}


def table_of(report: Report) -> Table:
    """One line for each headline measure: model, floors, repeat scan, share of the way."""
    strain = "computed, not measured" if report.simulated else "measured"
    table = Table(
        title=f"Synthetic elastograms against true strain ({strain}): {report.pairs} pairs, "
        f"{report.groups} groups",
        caption="[ ] 95 % interval over groups. Floors do not look at the image: a model that is not above "
        f"them has learnt nothing. Mean map: {report.mean_map_from}. Repeat scan: the true map, scanned "
        "again. Way: from the mean map (0 %) to the repeat scan (100 %).",
        caption_justify="left",
    )
    table.add_column("↑ more, ↓ less is better")
    for column in ("this model", "floor: mean map", "floor: shuffled", "repeat scan", "way"):
        table.add_column(column, justify="right", no_wrap=True)
    for key, region in report.measures.items():
        told = MEASURES[key]
        if told.headline:
            table.add_row(
                f"{ARROW[told.better]} {told.label}",
                _interval(region.generated),
                *(f"{one.mean:.3f}" for one in (region.mean_map, region.shuffled, region.repeat_scan)),
                _percent(region.share_of_way),
            )
    return table


def table_of_comparison(comparison: Comparison, first: str, second: str) -> Table:
    """One line for each measure: both models, their paired difference and its tests."""
    table = Table(
        title=f"Synthetic elastograms of two models: {comparison.pairs} pairs, {comparison.groups} groups",
        caption="A is better where the difference is above 0, whatever the arrow. [ ] 95 % interval. "
        "p: sign-flip permutation and Wilcoxon's signed-rank test of the difference, both by Holm for "
        f"{len(comparison.measures)} measures.",
        caption_justify="left",
    )
    table.add_column("↑ more, ↓ less is better")
    for column in (f"A: {first}", f"B: {second}", "A better by", "p sign-flip", "p Wilcoxon"):
        table.add_column(column, justify="right", no_wrap=True)
    for key, one in comparison.measures.items():
        told = MEASURES[key]
        table.add_row(
            f"{ARROW[told.better]} {told.label}",
            f"{one.first.mean:.3f}",
            f"{one.second.mean:.3f}",
            _interval(one.better_by, sign="+"),
            f"{one.sign_flip_holm:.4f}",
            f"{one.wilcoxon_holm:.4f}",
        )
    return table


def _interval(one: Interval, sign: str = "") -> str:
    return f"{one.mean:{sign}.3f} \\[{one.low:.3f}, {one.high:.3f}]"


def _percent(share: Share | None) -> str:
    return "-" if share is None else f"{share.value:.0%}"
