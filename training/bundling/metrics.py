"""What a bundle's manifest keeps of its evaluations: enough for the card, not every pair."""

from typing import Any

from training.pairs.folder import Maker
from training.scoring.stills import RATIOS

_KEPT = (
    "pairs", "groups", "simulated", "mean_map_from", "agreement", "image", "lesion_box", "strain_ratio",
    "tsukuba", "confidence",
)  # fmt: skip
_KEPT_MEASURES = ("ssim", "psnr", "mae", "contrast_sign")


def kept_of_pairs(report: dict[str, Any]) -> dict[str, Any]:
    """The part of an evaluation on pairs (its JSON) that the manifest repeats."""
    kept = {key: report[key] for key in _KEPT}
    kept["measures"] = {key: one for key, one in report["measures"].items() if key in _KEPT_MEASURES}
    return kept


def kept_of_other_maker(report: dict[str, Any], maker: Maker) -> dict[str, Any]:
    """The same, of pairs that something else made than what was trained on."""
    return {"maker": maker.name, "maker_version": maker.version, **kept_of_pairs(report)}


def kept_of_stills(report: dict[str, Any], side: str) -> dict[str, Any]:
    """The part of an evaluation on real stills (its JSON) that the manifest repeats; no names of files."""
    kept = ("stills", "lesions", "groups", "labels", "harder", "bounds")
    areas = {f"{score}_auc": report["auc"].get(score) for score in RATIOS}
    return {"side": side, **{key: report[key] for key in kept}, **areas}
