"""`emode-train baselines`: is the model better than plainer ones that had the same pairs?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from model.bundle import read_bundle
from model.generator import Generator, count_parameters
from model.predict import Predictor
from training.baselines.pix2pix import FEATURES
from training.baselines.pix2pix_fit import NAME as PIX2PIX
from training.baselines.pix2pix_fit import fit_pix2pix
from training.baselines.predictors import MeanMapPredictor, Pix2PixPredictor
from training.baselines.table import DECISIVE, LABELS, Candidate, Row, images_shown, rows, to_json
from training.baselines.variants import VARIANTS
from training.bundling.export import inference_of, shipped_weights
from training.cli.app import Config, Out, Threads, app, console, find_config, use_threads
from training.cli.evaluate import STDOUT, Json, give
from training.cli.fit import Device, join, load, run_fit
from training.config import TrainingConfig
from training.errors import ArgumentsInvalid
from training.fitting.parallel import joined
from training.pairs.folder import open_folder, refuse_for_training
from training.pairs.provenance import Provenance
from training.scoring.evaluate import Predicts, score
from training.scoring.measures import MEASURES, Palette
from training.scoring.references import mean_map
from training.scoring.report import Scores
from training.scoring.sources import FolderPairs, open_pairs

MEAN_MAP = "mean-map"


@app.command()
def baselines(
    config: Config,
    training: Annotated[list[Path], typer.Option(help="Folder of training pairs; give several.")],
    validation: Annotated[list[Path], typer.Option(help="Folder of validation pairs; give several.")],
    data: Annotated[
        list[Path], typer.Option(help="Folder of test pairs, on which all are scored; give several.")
    ],
    out: Out,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Compare this bundle with the baselines instead of training the model of --config too. "
            "It is for you to see that it learnt from the same pairs as often."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Baseline to compare with, of {', '.join(LABELS)}; give several. All if not given."
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = None,
    threads: Threads = None,
) -> None:
    """Train the model and plainer ones on the same pairs, as many images each, and compare them.

    Baselines: the mean map, a U-Net of equal size, L1 only, and pix2pix as published (54 million
    parameters: that one wants a GPU). Kill it at any time: the same call goes on where it was.
    """
    chosen = list(dict.fromkeys(only or LABELS))
    if unknown := sorted(set(chosen) - set(LABELS)):
        raise ArgumentsInvalid(f"--only {', '.join(unknown)}; there are {', '.join(LABELS)}")
    settings = find_config(config)
    use_threads(threads)
    for folder in (*training, *validation):
        refuse_for_training(open_folder(folder))
    pairs = open_pairs(data)
    shown = images_shown(settings, len(open_pairs(training)))
    if bundle is None:
        model = _fitted("emode", settings, training, validation, out, device, pairs)
    else:
        predictor = Predictor(read_bundle(bundle), device="auto", precision="fp32")
        name, spec = predictor.bundle.id, predictor.bundle.generator
        scores = _scored(predictor, pairs, Palette.of(spec), name)
        model = Candidate(name, count_parameters(Generator(spec)), None, scores)
    others = []
    for name in chosen:
        if name in VARIANTS:
            others.append(_fitted(name, settings, training, validation, out, device, pairs))
        elif name == PIX2PIX:
            others.append(_pix2pix(settings, training, validation, out, device, pairs))
        else:
            others.append(_mean_map(settings, training, pairs))
    table = rows(model, others)
    about = {
        "config": settings.name,
        "budget": f"{shown} images shown to each network",
        "provenance": Provenance.of(training, validation).to_json(),
    }
    give(to_json(model, table, about), as_json)
    if as_json != STDOUT:
        Console().print(table_of(model, table, shown))


def table_of(model: Candidate, table: Sequence[Row], shown: int) -> Table:
    """A line for each baseline and NCC: what it reaches, by how much the model is better, is that chance."""
    printed = Table(
        title=f"{model.name} against baselines\n{shown} images shown to each network",
        caption=f"{model.name} is better where the difference is above 0. p: sign-flip permutation test of "
        "the paired difference over groups, adjusted by Holm for the number of measures. Synthetic "
        "elastograms; not validated on patients.",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    printed.add_column("", no_wrap=True)
    printed.add_column("million\nvalues", justify="right", no_wrap=True)
    printed.add_column("measure", no_wrap=True)
    for column in ("reaches", "better by \\[95 %]", "p"):
        printed.add_column(column, justify="right", no_wrap=True)
    for row in table:
        head = [row.candidate.name, f"{row.candidate.parameters / 1e6:.2f}"]
        for key in DECISIVE:
            one = row.comparison.measures.get(key)
            cells = ["-", "-", "-"]
            if one is not None:
                gain = one.better_by
                cells = [
                    f"{one.second.mean:.3f}",
                    f"{gain.mean:+.3f} \\[{gain.low:.3f}, {gain.high:.3f}]",
                    f"{one.sign_flip_holm:.4f}",
                ]
            printed.add_row(*head, MEASURES[key].label, *cells)
            head = ["", ""]
    return printed


def _fitted(
    name: str,
    settings: TrainingConfig,
    training: Sequence[Path],
    validation: Sequence[Path],
    out: Path,
    device: str,
    pairs: FolderPairs,
) -> Candidate:
    """Train a variant of our own network, or go on with it, and score its averaged weights."""
    varied = VARIANTS[name](settings)
    run_fit(varied, training, validation, out / name, device=device)
    config, _, weights = shipped_weights(out / name)
    inference = inference_of(config, weights)
    scores = _scored(inference, pairs, Palette.of(inference.spec), name)
    size = count_parameters(Generator(config.generator_spec()))
    return Candidate(name, size, images_shown(config, len(open_pairs(training))), scores)


def _pix2pix(
    settings: TrainingConfig,
    training: Sequence[Path],
    validation: Sequence[Path],
    out: Path,
    device: str,
    pairs: FolderPairs,
    features: int = FEATURES,
) -> Candidate:
    with joined(device) as world, Bar(console=console) as bar:
        samples = join([load(folder, settings, bar) for folder in training]).to(world.device)
        task = bar.add_task(PIX2PIX, total=None)
        trainer = fit_pix2pix(
            settings,
            samples,
            out / PIX2PIX,
            device=world.device,
            provenance=Provenance.of(training, validation),
            report=lambda done, total: bar.update(task, completed=done, total=total),
            features=features,
        )
        spec = settings.generator_spec()
        predictor = Pix2PixPredictor(trainer.generator, settings.preprocess_spec(), spec, world.device)
    scores = _scored(predictor, pairs, Palette.of(spec), PIX2PIX)
    return Candidate(PIX2PIX, count_parameters(trainer.generator), trainer.step, scores)


def _mean_map(settings: TrainingConfig, training: Sequence[Path], pairs: FolderPairs) -> Candidate:
    known, spec = open_pairs(training), settings.generator_spec()
    with Bar(console=console) as bar:
        numbers = bar.track(range(len(known)), description="mean of training pairs")
        predictor = MeanMapPredictor(mean_map(known[i].strain for i in numbers), spec)
    return Candidate(MEAN_MAP, 0, len(known), _scored(predictor, pairs, Palette.of(spec), MEAN_MAP))


def _scored(predictor: Predicts, pairs: FolderPairs, palette: Palette, name: str) -> Scores:
    with Bar(console=console) as bar:
        task = bar.add_task(f"score {name}", total=len(pairs))
        return score(
            predictor, pairs, palette=palette, progress=lambda done: bar.update(task, completed=done)
        )  # fmt: skip
