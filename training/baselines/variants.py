"""Baselines that are our own training with something left out: a configuration made from another."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

import torch

from model.generator import Generator, GeneratorSpec, count_parameters
from training.config import GeneratorConfig, LossConfig, TrainingConfig

_WIDEST = 16
"""Times the width of the bottom: far more than any Transformer's values are worth."""


def without_transformer(config: TrainingConfig) -> TrainingConfig:
    """A U-Net of as many values: no attention, and what that frees goes into wider convolutions."""
    spec = config.generator_spec()
    wanted = _parameters(spec)
    dims = range(spec.dim, _WIDEST * spec.dim, 4)
    enough = bisect_left(dims, wanted, key=lambda dim: _parameters(_widened(spec, dim)))
    around = [_widened(spec, dim) for dim in dims[max(enough - 1, 0) : enough + 1]]
    closest = min(around, key=lambda candidate: abs(_parameters(candidate) - wanted))
    generator = config.generator.model_dump() | {
        "channels": closest.channels,
        "dim": closest.dim,
        "layers": 0,
        "heads": 1,
    }
    return config.model_copy(update={"generator": GeneratorConfig.model_validate(generator)})


def l1_only(config: TrainingConfig) -> TrainingConfig:
    """The same network without judges: mean absolute difference of strain and colour, and nothing else."""
    losses = dict.fromkeys(LossConfig.model_fields, 0.0)
    ours = config.losses
    losses |= {"strain_l1": ours.strain_l1, "colour_l1": ours.colour_l1, "lesion": 1.0}
    phases = tuple(phase.model_copy(update={"adversarial": False}) for phase in config.phases)
    update = {
        "losses": LossConfig.model_validate(losses),
        "phases": phases,
        "generator": config.generator.model_copy(update={"uncertainty": False}),
    }
    return config.model_copy(update=update)


VARIANTS: dict[str, Callable[[TrainingConfig], TrainingConfig]] = {
    "emode": lambda config: config,
    "unet": without_transformer,
    "l1": l1_only,
}
"""What `fit` trains; "emode" is the configuration itself."""


def _widened(spec: GeneratorSpec, dim: int) -> GeneratorSpec:
    factor = dim / spec.dim
    channels = tuple(max(4, 4 * round(c * factor / 4)) for c in spec.channels)
    return replace(spec, channels=channels, dim=dim, layers=0, heads=1)


def _parameters(spec: GeneratorSpec) -> int:
    with torch.device("meta"):
        return count_parameters(Generator(spec))
