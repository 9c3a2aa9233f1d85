"""One run's networks and optimisers, and the single training step that moves them."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from model.generator import Generator, GeneratorOutput
from training.config import TrainingConfig
from training.errors import CheckpointInvalid, NotFinite
from training.fitting.discriminator import Judges, Verdict
from training.fitting.disturbance import Disturbance
from training.fitting.lesion_reader import LesionReader, reading_loss
from training.fitting.losses import (
    feature_matching,
    gradient_l1,
    lesion_ncc,
    lsgan_discriminator,
    lsgan_generator,
    ncc,
    soft_inversion,
    spread_likelihood,
    strain_ratio,
    weighted_l1,
)
from training.fitting.parallel import World
from training.fitting.schedule import Position
from training.pairs.samples import Batch, box_area, lesion_boxes

Losses = dict[str, float]
Pictures = tuple[torch.Tensor, torch.Tensor]
"""Strain (N, 1, H, W) and colour (N, 3, H, W)."""

_INVERSION_STRIDE = 4
"""Reading strain back compares each pixel with every colour; a sixteenth of the pixels says enough."""


class Trainer:
    """Generator, its moving average, the discriminators, and how far they have come."""

    def __init__(self, config: TrainingConfig, world: World) -> None:
        self.config, self.world = config, world
        device, judges = world.device, config.judges
        with _seeded(config.seed):
            self.generator = Generator(config.generator_spec())
            self.judges = Judges(judges.features, judges.scales, lesion=judges.lesion)
            self.reader = LesionReader(config.generator.channels[0])
        for network in (self.generator, self.judges, self.reader):
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.step = 0
        self.generator_optimiser = torch.optim.AdamW(
            self._learning(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.judge_optimiser = torch.optim.Adam(
            self.judges.parameters(), lr=config.discriminator_learning_rate, betas=(0.5, 0.99)
        )
        generate = self.generator.with_features
        self._generate = torch.compile(generate) if config.compile else generate
        self._judge = torch.compile(self.judges) if config.compile else self.judges

    def train_on(self, batch: Batch, at: Position, rng: torch.Generator) -> Losses:
        """Take one step of the generator and, where the phase says so, one of the discriminators.

        Raises NotFinite if the loss is no number any more; nothing was changed then.
        """
        self._set_learning_rates(at.progress)
        bmode = batch.bmode.contiguous(memory_format=torch.channels_last)
        boxes = lesion_boxes(batch.lesion)
        true_colour = self.generator.blend(batch.strain, (batch.bmode + 1) / 2)
        with self._autocast():
            made, features = self._generate(bmode)
        parts = self._likeness(batch, boxes, made, true_colour)
        if self.config.losses.lesion_look:
            parts["lesion_look"] = reading_loss(self.reader(features.float()), batch)
        # The padding is the same in both, so that it can never give a picture away.
        seen = batch.covered
        fake, real = (made.strain * seen, made.colour * seen), (batch.strain * seen, true_colour * seen)
        looked_at = _somewhere(boxes, rng)
        disturb = Disturbance((len(batch), *bmode.shape[2:]), rng, bmode.device)
        if at.phase.adversarial:
            self.judges.requires_grad_(False)
            verdicts = self._judged(bmode, fake, looked_at, disturb)
            parts["adversarial"] = lsgan_generator(verdicts)
            if self.config.losses.feature_matching:
                with torch.no_grad():
                    truth = self._judged(bmode, real, looked_at, disturb)
                parts["feature_matching"] = feature_matching(truth, verdicts)
        weights = {name: getattr(self.config.losses, name) for name in parts}
        for name in ("adversarial", "feature_matching"):
            if name in weights:
                weights[name] *= at.ramp
        loss = torch.stack([weight * parts[name] for name, weight in weights.items()]).sum()
        if not math.isfinite(float(loss.detach())):
            raise NotFinite(f"step {self.step}", step=self.step)
        self.generator_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.world.average_gradients(self._learning())
        torch.nn.utils.clip_grad_norm_(self._learning(), self.config.gradient_clip)
        self.generator_optimiser.step()
        if at.phase.adversarial:
            parts |= self._train_judges(bmode, real, (fake[0].detach(), fake[1].detach()), looked_at, disturb)
        self.step += 1
        self._update_ema()
        return {"loss": float(loss.detach()), **{name: float(part.detach()) for name, part in parts.items()}}

    def _learning(self) -> list[torch.nn.Parameter]:
        """What the generator's optimiser moves."""
        reader = self.reader.parameters() if self.config.losses.lesion_look else ()
        return [*self.generator.parameters(), *reader]

    def _likeness(
        self, batch: Batch, boxes: torch.Tensor, made: GeneratorOutput, true_colour: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """How far the made pictures are from the true ones; only what has a weight is computed."""
        losses, spec = self.config.losses, self.config.generator
        weight = batch.covered * (1.0 + (losses.lesion - 1.0) * batch.lesion)
        parts = {
            "strain_l1": weighted_l1(made.strain, batch.strain, weight),
            "colour_l1": weighted_l1(made.colour, true_colour, weight),
            "ncc": (1 - ncc(made.strain, batch.strain, batch.covered)).mean(),
            "gradient": gradient_l1(made.strain, batch.strain, batch.covered),
        }
        if losses.strain_ratio:
            parts["strain_ratio"] = strain_ratio(made.strain, batch.strain, batch.lesion, batch.covered)
        if losses.lesion_ncc:
            parts["lesion_ncc"] = 1 - lesion_ncc(made.strain, batch.strain, box_area(boxes, batch.covered))
        if spec.uncertainty:
            error = made.strain - batch.strain
            parts["spread"] = spread_likelihood(error, made.spread, batch.covered)
        if losses.inversion:
            few = (..., slice(None, None, _INVERSION_STRIDE), slice(None, None, _INVERSION_STRIDE))
            back = soft_inversion(made.colour[few], self.generator.table, spec.alpha)
            parts["inversion"] = weighted_l1(back, made.strain[few], batch.covered[few])
        return parts

    def _judged(
        self, bmode: torch.Tensor, pictures: Pictures, boxes: torch.Tensor, disturb: Disturbance
    ) -> list[Verdict]:
        strain, colour = pictures
        if self.config.judges.augment:
            together = disturb(torch.cat([bmode, strain, colour], dim=1))
            bmode, strain, colour = torch.split(together, [1, 1, 3], dim=1)
        with self._autocast():
            verdicts: list[Verdict] = self._judge(bmode, strain, colour, boxes)
        return verdicts

    def _train_judges(
        self, bmode: torch.Tensor, real: Pictures, fake: Pictures, boxes: torch.Tensor, disturb: Disturbance
    ) -> dict[str, torch.Tensor]:
        self.judges.requires_grad_(True)
        made = self._judged(bmode, fake, boxes, disturb)
        parts = {"discriminator": lsgan_discriminator(self._judged(bmode, real, boxes, disturb), made)}
        loss = parts["discriminator"]
        settings = self.config.judges
        if settings.r1 and self.step % settings.r1_every == 0:
            parts["r1"] = self._slope_on_truth(bmode, real, boxes)
            # Paid once in a while, so it counts for all the steps in between.
            loss = loss + settings.r1 / 2 * settings.r1_every * parts["r1"]
        self.judge_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.world.average_gradients(self.judges.parameters())
        self.judge_optimiser.step()
        return parts

    def _slope_on_truth(self, bmode: torch.Tensor, real: Pictures, boxes: torch.Tensor) -> torch.Tensor:
        """Mean squared gradient of the judges' scores on true pictures, in fp32: half precision loses it."""
        pictures = [picture.detach().requires_grad_() for picture in real]
        # Not compiled: a compiled network has no second derivative.
        verdicts = self.judges(bmode, *pictures, boxes)
        total = torch.stack([verdict.scores.mean(dim=(1, 2, 3)).sum() for verdict in verdicts]).sum()
        slopes = torch.autograd.grad(total, pictures, create_graph=True)
        return torch.stack([slope.square().sum(dim=(1, 2, 3)).mean() for slope in slopes]).sum()

    def _autocast(self) -> AbstractContextManager[None]:
        device = self.world.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _set_learning_rates(self, progress: float) -> None:
        """Rise over 100 steps (attention diverges without), then fall along a cosine to a fiftieth."""
        factor = min(1.0, (self.step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.generator_optimiser.param_groups:
            group["lr"] = self.config.learning_rate * factor
        for group in self.judge_optimiser.param_groups:
            group["lr"] = self.config.discriminator_learning_rate * factor

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        means: list[torch.Tensor] = list(self.ema.parameters())
        values: list[torch.Tensor] = list(self.generator.parameters())
        torch._foreach_lerp_(means, values, 1 - decay)

    def begin_with(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the generator's first weights from elsewhere; CheckpointInvalid if they do not fit."""
        try:
            self.generator.load_state_dict({name: value.float() for name, value in weights.items()})
        except RuntimeError as error:
            raise CheckpointInvalid(f"the weights to start from fit another network ({error})") from error
        self.ema.load_state_dict(self.generator.state_dict())

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "generator": self.generator.state_dict(),
            "ema": self.ema.state_dict(),
            "judges": self.judges.state_dict(),
            "reader": self.reader.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "judge_optimiser": self.judge_optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `state` returned."""
        self.step = int(state["step"])
        for name in ("generator", "ema", "judges", "reader", "generator_optimiser", "judge_optimiser"):
            getattr(self, name).load_state_dict(state[name])


def _somewhere(boxes: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Boxes (N, 4) for the lesion's judge; where there is no lesion it looks at a random place."""
    n = len(boxes)
    half = 0.2 + 0.2 * torch.rand((n, 1), generator=rng)
    centre = (1 - half) * (2 * torch.rand((n, 2), generator=rng) - 1)
    random = torch.cat([centre, half, half], dim=1).to(boxes.device)
    return torch.where(boxes[:, 2:3] > 0, boxes, random)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
