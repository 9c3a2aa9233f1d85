"""Parts of the card that not every bundle has."""

from typing import Any

ROWS = (
    ("generated", "**this model**"),
    ("mean_map", "floor: mean training map, ignores the image"),
    ("shuffled", "floor: result for another image"),
    ("repeat_scan", "reference: the true map after a 25 % smooth change, as between two scans"),
)

_AREAS = ("strain_ratio_auc", "fat_ratio_auc")

_STILL_ROWS = (
    ("generated", "**this model**"),
    ("mean_map", "floor: ignores the image"),
    ("brightness", "floor: dark is hard"),
    ("expected", "ceiling: the mean of strains drawn by label and mask, as those trained on"),
)


def other_maker(found: dict[str, Any] | None) -> str:
    """How it does on pairs of a maker that it was not trained on."""
    if found is None:
        return ""
    image, box = found["image"], found["lesion_box"]
    lines = [
        f"\n## On {found['pairs']} pairs of another simulator ({found['maker']} {found['maker_version']})",
        "Other layouts, other speckle, another solver; never trained on.\n",
        "| | whole image | lesion box |",
        "|---|---|---|",
    ]
    for key, label in ROWS:
        cells = [f"{region[key]['mean']:.3f}" if region else "-" for region in (image, box)]
        lines.append(f"| {label} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def stills(found: dict[str, Any] | None) -> str:
    """How it does on real B-mode, where no strain is known."""
    if found is None:
        return ""
    lines = [
        f"\n## On real B-mode, {found['lesions']} lesions of {found['groups']} groups never trained on",
        "No true strain is known there. Asked is whether lesions are drawn harder than the ring around",
        "them, and malignant ones harder than benign ones (by strain ratio, against tissue beside the lesion",
        "and against the softest third of all tissue, as fat is); whether that is true of these patients,",
        "nobody has measured. Stiffness is drawn by label with overlap, so even who knows the label cannot",
        "tell all: the ceiling is what the targets themselves say.\n",
        "| | harder than the ring | AUC malignant / benign | the same against fat |",
        "|---|---|---|---|",
    ]
    for key, label in _STILL_ROWS:
        if key not in found["harder"]:
            continue
        ring = found["harder"][key]["all"]["ring"]
        areas = [None if (told := found.get(of)) is None else told[key]["auc"] for of in _AREAS]
        cells = [
            "-" if one is None else f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
            for one in (ring, *areas)
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def trust(found: dict[str, Any] | None) -> str:
    """What it knows of its own limits."""
    if found is None:
        return ""
    lines = ["\n## What it knows of its own limits"]
    if "confidence" in found:
        told = found["confidence"]
        lines.append(
            f"Its confidence is the NCC that it expects: off by {told['mean_error']:.2f} on average on"
            f" held-out simulated pairs (always saying their mean: {told['mean_error_of_the_mean']:.2f})."
        )
    lines.append("Frames unlike breast B-mode are told apart by how they look; the manifest has the rates.")
    return "\n".join(lines) + "\n"
