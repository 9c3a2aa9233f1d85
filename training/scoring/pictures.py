"""Sheets to look at: B-mode, true strain, generated strain and error, all said to be synthetic."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model.inference import Elastogram
from model.preprocess import Frame
from training.errors import PictureNotWritten
from training.pairs.pair import Pair
from training.pairs.stills import Still
from training.replacing import replacing
from training.scoring.clinical import hard_map
from training.scoring.evaluate import Predicts
from training.scoring.measures import Palette
from training.scoring.regions import LesionRegions, Map, Mask
from training.scoring.report import Report
from training.scoring.sources import Pairs
from training.scoring.stills import StillsReport, with_lesions

Rgb = NDArray[np.uint8]

PANEL_HEIGHT = 300
GAP, HEAD, FOOT, TITLE = 8, 24, 24, 54
ERROR_FULL_SCALE = 0.5
"""Absolute error that is drawn white."""

_PAPER, _INK, _DIM, _OUTLINE = 24, (235, 235, 235), (160, 160, 160), (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def best_median_worst(report: Report) -> dict[str, int]:
    """Choose three pairs by NCC in the lesion box, or of the whole image where few have lesions."""
    key = "ncc" if report.lesion_box is None else "ncc_lesion_box"
    values = report.scores.values[key]
    order = [int(i) for i in np.argsort(values) if np.isfinite(values[i])]
    return {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}


def write_examples(path: Path, predictor: Predicts, pairs: Pairs, report: Report, palette: Palette) -> None:
    """Draw best, median and worst pair as one PNG."""
    rows = []
    for name, index in best_median_worst(report).items():
        pair = pairs[index]
        made = predictor.predict([pair.bmode])[0]
        values = {key: report.scores.values[key][index] for key in ("ncc", "ncc_lesion_box", "mae")}
        text = f"{name}: pair {index}   NCC {values['ncc']:.2f}   lesion box {values['ncc_lesion_box']:.2f}"
        rows.append(
            pair_row(pair, made, palette, f"{text}   mean error {values['mae']:.3f}", report.simulated)
        )
    write_sheet(path, rows, "SYNTHETIC elastograms against true strain. Research use only.")


def softest_median_hardest(report: StillsReport) -> dict[str, str]:
    """Choose three lesions of each label by generated strain ratio: name in the index -> what it is."""
    chosen: dict[str, str] = {}
    for label in report.labels:
        rows = [one for one in report.rows if one["label"] == label]
        rows.sort(key=lambda one: float(one["strain_ratio"]["value"]))
        for what, one in (("softest", rows[0]), ("median", rows[len(rows) // 2]), ("hardest", rows[-1])):
            ratio = one["strain_ratio"]
            words = f"{what} of {len(rows)} {label}: strain ratio {ratio['bound']}{ratio['value']:.2f}"
            chosen.setdefault(one["name"], f"{words}   E/B {one['eb_ratio']:.2f}   Tsukuba {one['tsukuba']}")
    return chosen


def write_still_examples(
    path: Path, predictor: Predicts, stills: Iterable[Still], report: StillsReport
) -> None:
    """Draw softest, median and hardest lesion of each label as one PNG."""
    chosen, rows = softest_median_hardest(report), {}
    for still, regions in with_lesions(stills):
        if still.name in chosen:
            made = predictor.predict([still.frame])[0]
            rows[still.name] = still_row(still, regions, made, chosen[still.name])
    title = (
        "SYNTHETIC elastograms of B-mode without known strain. Suggestions, not findings. Research use only."
    )
    write_sheet(path, [rows[name] for name in chosen], title)


def pair_row(pair: Pair, made: Elastogram, palette: Palette, text: str, simulated: bool) -> Rgb:
    """One pair as a row of four panels with a line of text below."""
    error = np.clip(np.abs(made.strain - pair.strain) / ERROR_FULL_SCALE, 0, 1)
    source = "simulated" if simulated else "measured"
    return row(
        {
            "B-mode" + (" (simulated)" if simulated else ""): grey(pair.bmode),
            f"true strain ({source})": palette.paint(pair.strain, pair.bmode),
            "generated: SYNTHETIC": made.colour,
            f"error, white is {ERROR_FULL_SCALE}": grey(np.round(error * 255).astype(np.uint8)),
        },
        pair.mask,
        text,
    )


def still_row(still: Still, regions: LesionRegions, made: Elastogram, text: str) -> Rgb:
    """One still as a row of three panels with a line of text below."""
    hard = hard_map(made.strain, regions)
    return row(
        {
            "B-mode": grey(still.frame),
            "generated: SYNTHETIC": made.colour,
            "hard: under half of the reference": grey(hard.astype(np.uint8) * 200),
        },
        still.mask,
        text,
    )


def row(panels: dict[str, Rgb], mask: Mask | None, text: str) -> Rgb:
    """Panels of one frame beside each other: titles above, the lesion outlined, a line of text below."""
    drawn = []
    for title, picture in panels.items():
        scale = PANEL_HEIGHT / picture.shape[0]
        size = (max(60, round(picture.shape[1] * scale)), PANEL_HEIGHT)
        panel = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        if mask is not None:
            outline = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            found, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(panel, found, -1, _OUTLINE, 1, cv2.LINE_AA)
        framed = _paper(HEAD + PANEL_HEIGHT, size[0] + GAP)
        framed[HEAD:, : size[0]] = panel
        _write(framed, title, (2, HEAD - 8))
        drawn.append(framed)
    panels_wide = np.concatenate(drawn, axis=1)
    foot = _paper(FOOT, panels_wide.shape[1])
    _write(foot, text, (2, FOOT - 9), _DIM)
    return np.concatenate([panels_wide, foot])


def write_sheet(path: Path, rows: Sequence[Rgb], title: str) -> None:
    """Write rows below a title and the colours' meaning as one PNG; PictureNotWritten if that fails."""
    width = max(640, *(one.shape[1] for one in rows)) + GAP
    head = _paper(TITLE, width)
    _write(head, title, (GAP, 20), scale=0.55)
    _write(
        head, "Colour: red is soft, green is mean, blue is hard. Outline: lesion in B-mode.", (GAP, 42), _DIM
    )
    parts = [head]
    for one in rows:
        part = _paper(one.shape[0] + GAP, width)
        part[: one.shape[0], GAP : GAP + one.shape[1]] = one
        parts.append(part)
    ok, png = cv2.imencode(".png", cv2.cvtColor(np.concatenate(parts), cv2.COLOR_RGB2BGR))
    if not ok:
        raise PictureNotWritten(f"{path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(png.tobytes())


def grey(picture: Frame | Map) -> Rgb:
    """A grey picture uint8 (H, W) as RGB."""
    return np.repeat(np.asarray(picture, dtype=np.uint8)[..., None], 3, axis=2)


def _paper(height: int, width: int) -> Rgb:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _write(
    picture: Rgb, text: str, at: tuple[int, int], colour: tuple[int, int, int] = _INK, scale: float = 0.42
) -> None:
    cv2.putText(picture, text, at, _FONT, scale, colour, 1, cv2.LINE_AA)
