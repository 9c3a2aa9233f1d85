"""The model card: what a bundle is for, what it scored beside its floors, and what it cannot do."""

from collections import Counter
from typing import Any

from training.bundling import sections
from training.config import TrainingConfig
from training.pairs.provenance import DataDescription, Provenance

_CARD = """# Model card: {name} {version}

**Learnt from simulated strain. Not validated on patients. Research use only.**
Its pictures are synthetic: nothing in them was measured, and no diagnosis may rest on them.

## What it is
A generator (Transformer and U-Net, {parameters:,} parameters, input {width} x {height} pixels) that draws a
strain elastogram from a breast ultrasound B-mode image. Two heads: a scalar strain index (0 hard, 0.5 about
the mean of the frame, 1 soft) and the colour E-mode (red soft, green mean, blue hard; colour map {colormap}
version {colormap_version}, {alpha:.0%} over the B-mode). The index is relative to the frame: it has no unit,
and two frames cannot be compared by it.

## Where it comes from
Trained as a paired GAN for {steps:,} steps{start}. Source commit: {git_commit}. Its pairs:

{data}

Simulated strain was computed by finite elements; how stiff a lesion is for its look was set from the
literature before training, and 15 % of benign- and malignant-looking lesions contradict their look.
{sources}

## How well it does, on {test_pairs} simulated pairs with seeds never trained on
Normalised cross-correlation (NCC, zero shift) with the true strain: mean (95 % bootstrap interval).

| | whole image | lesion box |
|---|---|---|
{table}

The floors matter more than the score: a map that ignores the image already scores {floor:.2f}, because every
breast has skin above and muscle below. This model is {gap:.2f} above it.{way}
{other}{stills}{trust}
## Commands that give these numbers, and the weights
{made} in the source tree at the commit above; each number again with

    emode-train evaluate --bundle BUNDLE --data PAIRS --training TRAINING-PAIRS
    emode-train evaluate --bundle BUNDLE --masks STILLS
    emode-train speed --bundle BUNDLE

## Intended use
Testing and demonstrating a DICOM pipeline; research on image synthesis. Adult breast, linear probe, B-mode
stills of 64 pixels or more on each side, cropped to the tissue.

## Limits
- B-mode does not show stiffness. The model has learnt how look and stiffness go together in a simulator;
  where a patient's tissue does not follow that, the picture is wrong and looks just as convincing.
- Never scored against measured strain. Speckle, anatomy and artefacts of real scanners differ from the
  simulator's.
- Implants, scars, ribs, axilla, calcifications and anything but breast are outside what it has seen.
{uncertainty}
"""

_FROM_NOTHING = "`make train-default BUSI=folder`"
_ONWARD = "`make train-onward BUSI=folder START=folder` (the bundle named above)"

_WAY = " In the lesion box it has come {:.0%} of the way to a repeat scan."

_MAKERS = {
    "simulator": "strain and B-mode simulated over drawn anatomy",
    "layouts": "strain simulated over tissue layouts of real B-mode stills with lesion masks",
    "prepare": "dual-view screens of a hospital",
}
_SOURCES = {
    "layouts": """The stills are BUSI's: Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast
ultrasound images. Data in Brief 2020;28:104863 (10.1016/j.dib.2019.104863). They came without
elastography: no strain of theirs was ever measured, and none of their pixels is in this bundle.""",
}
_KNOWS = """- It says how far off it expects to be, for each pixel. That, too, was learnt from simulated
  strain: it knows how uncertain stiffness is in the simulator, not in patients."""
_KNOWS_NOT = "- It does not know when it is wrong: it has no uncertainty output."
_NO_PATIENTS = "No patient data were used."


def _data_line(data: DataDescription, times: int) -> str:
    what = _MAKERS.get(data.maker, data.maker)
    made = f"`{data.maker}` version {data.maker_version}, numbers {data.first} to {data.last}"
    often = "" if times == 1 else f", each seen {times} times an epoch"
    return f"- {data.pairs:,} pairs, {what} ({made}){often}"


def render_card(config: TrainingConfig, training: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Write the card, Markdown, from the manifest's own facts."""

    def cell(region: str, name: str) -> str:
        if not metrics.get(region):
            return "-"
        value = metrics[region][name]
        return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

    rows = [f"| {label} | {cell('image', key)} | {cell('lesion_box', key)} |" for key, label in sections.ROWS]
    box = metrics.get("lesion_box")
    way = (box or {}).get("share_of_way")
    provenance = Provenance.from_json(training["provenance"])
    makers = {data.maker for data in provenance.training}
    return _CARD.format(
        name=config.name,
        version=config.version,
        parameters=training["parameters"],
        width=config.preprocess.width,
        height=config.preprocess.height,
        colormap=config.generator.colormap,
        colormap_version=config.generator.colormap_version,
        alpha=config.generator.alpha,
        steps=training["steps"],
        start=f", starting from {provenance.start}" if provenance.start else "",
        data="\n".join(_data_line(data, times) for data, times in Counter(provenance.training).items()),
        sources="\n".join(words for maker, words in _SOURCES.items() if maker in makers) or _NO_PATIENTS,
        made=_ONWARD if provenance.start else _FROM_NOTHING,
        git_commit=training["git_commit"],
        uncertainty=_KNOWS if config.generator.uncertainty else _KNOWS_NOT,
        test_pairs=metrics["pairs"],
        table="\n".join(rows),
        floor=metrics["image"]["mean_map"]["mean"],
        gap=metrics["image"]["above_mean_map"]["mean"],
        way="" if way is None else _WAY.format(way["value"]),
        other=sections.other_maker(metrics.get("other_maker")),
        stills=sections.stills(metrics.get("stills")),
        trust=sections.trust(metrics.get("trust")),
    )
