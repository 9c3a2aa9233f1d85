"""Reports as tables for the terminal: what a newcomer has to know is in the table itself."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from training.scoring.compare import Comparison
from training.scoring.intervals import Interval, Share
from training.scoring.measures import MEASURES
from training.scoring.report import Report
from training.scoring.stills import CEILING, StillsReport

ARROW = {"more": "↑", "less": "↓"}


def table_of(report: Report) -> Table:
    """One line for each headline measure: model, floors, repeat scan, share of the way; 80 columns."""
    strain = "computed, not measured" if report.simulated else "measured"
    table = _table(
        f"Synthetic elastograms against true strain ({strain})\n{report.pairs} pairs, {report.groups} groups",
        ("this model \\[95 %]", "mean\nmap", "shuf-\nfled", "2nd\nscan", "way"),
        "Mean map and shuffled are floors: they do not look at the image. A model that is not above them "
        f"has learnt nothing. Mean map: of {report.mean_map_from}. 2nd scan: the true map, scanned again. "
        "Way: from the mean map (0 %) to the second scan (100 %); - where the two do not differ.",
    )
    for key, region in report.measures.items():
        told = MEASURES[key]
        if told.headline:
            table.add_row(
                f"{ARROW[told.better]} {told.label}",
                _interval(region.generated),
                *(_short(one.mean) for one in (region.mean_map, region.shuffled, region.repeat_scan)),
                _percent(region.share_of_way),
            )
    return table


def table_of_comparison(comparison: Comparison, first: str, second: str) -> Table:
    """One line for each measure: both models, their paired difference and its tests; 80 columns."""
    table = _table(
        f"Synthetic elastograms of two models\n{comparison.pairs} pairs, {comparison.groups} groups",
        ("A", "B", "A better by \\[95 %]", "p\nflip", "p\nWilc."),
        f"A is {first}, B is {second}. A is better where the difference is above 0, whatever the arrow. "
        "p: sign-flip permutation and Wilcoxon's signed-rank test of the difference over groups, both "
        f"adjusted by Holm for {len(comparison.measures)} measures.",
    )
    for key, one in comparison.measures.items():
        told = MEASURES[key]
        table.add_row(
            f"{ARROW[told.better]} {told.label}",
            _short(one.first.mean),
            _short(one.second.mean),
            _interval(one.better_by, sign="+"),
            f"{one.sign_flip_holm:.3f}",
            f"{one.wilcoxon_holm:.3f}",
        )
    return table


def table_of_stills(report: StillsReport) -> Table:
    """One line for each label: how often its lesions are harder than what is around them; 80 columns."""
    labels = ", ".join(f"{n} {label}" for label, n in report.labels.items())
    table = _table(
        f"Synthetic elastograms of real B-mode without known strain\n{report.lesions} lesions "
        f"({labels}), {report.groups} groups",
        ("this model \\[95 %]", "beside it", "mean map", "dark", *_ceiling_column(report)),
        "Harder than the 2.5 mm ring around it; beside it: than tissue at its depth (strain ratio above 1). "
        f"Floors: mean map of {report.mean_map_from}, which does not look at the image; dark: the B-mode "
        "itself, dark taken for hard." + _CEILING_NOTE * bool(_ceiling(report)),
        first="lesion drawn harder",
    )
    for label, own in report.harder["generated"].items():
        others = ("mean_map", "brightness", *_ceiling(report))
        floors = (report.harder[name][label].ring for name in others)
        table.add_row(
            label, _share(own.ring), _percent(own.reference), *(_percent(floor) for floor in floors)
        )
    return table


def table_of_discrimination(report: StillsReport) -> Table:
    """One line for each reading: AUC of malignant against benign; 80 columns."""
    table = _table(
        "Malignant against benign: area under the ROC curve",
        ("this model \\[95 %]", "mean map", "dark", "p dark", *_ceiling_column(report)),
        "0.5 is chance. Interval by bootstrap over groups; p of the difference to dark by DeLong's test. "
        f"{report.bounds} strain ratios are bounds, by clipping.",
        first="reading",
    )
    for score, by_candidate in report.auc.items():
        own = by_candidate["generated"]
        floors = (by_candidate[name].auc.value for name in ("mean_map", "brightness"))
        ceiling = (by_candidate[name].auc.value for name in _ceiling(report))
        p = own.above["brightness"].p
        table.add_row(
            score.replace("_", " "),
            _share(own.auc.groups),
            *(_short(floor) for floor in floors),
            "<.001" if p < 0.001 else f"{p:.3f}",
            *(_short(one) for one in ceiling),
        )
    return table


_CEILING_NOTE = (
    " Ceiling (expected in the JSON): the mean of strains drawn for each still by its label and mask, as a "
    "model would say that knew them."
)


def _ceiling_column(report: StillsReport) -> tuple[str, ...]:
    """Its heading, where it was drawn."""
    return ("ceiling",) if _ceiling(report) else ()


def _ceiling(report: StillsReport) -> tuple[str, ...]:
    """The ceiling's name, where it was drawn."""
    return (CEILING,) if CEILING in report.harder else ()


def _table(
    title: str, columns: tuple[str, ...], caption: str, first: str = "↑ more, ↓ less is better"
) -> Table:
    table = Table(title=title, caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.1f}"


def _interval(one: Interval, sign: str = "") -> str:
    return f"{_short(one.mean, sign)} \\[{_short(one.low)}, {_short(one.high)}]"


def _percent(share: Share | None) -> str:
    return "-" if share is None else f"{share.value:.0%}"


def _share(share: Share | None) -> str:
    return "-" if share is None else f"{share.value:.3f} \\[{share.low:.3f}, {share.high:.3f}]"
