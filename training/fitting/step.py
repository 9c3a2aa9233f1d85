"""One run's networks and optimisers, and the single training step that moves them."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from model.generator import Generator
from training.config import TrainingConfig
from training.errors import NotFinite
from training.fitting.discriminator import DiscriminatorPair
from training.fitting.losses import gradient_l1, lsgan_discriminator, lsgan_generator, ncc, weighted_l1
from training.pairs.samples import Batch

Losses = dict[str, float]


class Trainer:
    """Generator, its moving average, the discriminators, and how far they have come."""

    def __init__(self, config: TrainingConfig, total_steps: int, warmup_steps: int) -> None:
        self.config, self.total_steps, self.warmup_steps = config, total_steps, warmup_steps
        with _seeded(config.seed):
            self.generator = Generator(config.generator_spec())
            self.judges = DiscriminatorPair(config.discriminator_features)
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.judges.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.step = 0
        self.generator_optimiser = torch.optim.AdamW(
            self.generator.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.judge_optimiser = torch.optim.Adam(
            self.judges.parameters(), lr=config.discriminator_learning_rate, betas=(0.5, 0.99)
        )

    def train_on(self, batch: Batch) -> Losses:
        """Take one step of the generator and, after the warm-up, one of the discriminators."""
        self._set_learning_rates()
        ramp = min(1.0, max(0.0, (self.step - self.warmup_steps) / max(1, self.warmup_steps)))
        bmode, weights = batch.bmode.contiguous(memory_format=torch.channels_last), self.config.losses
        weight = batch.covered * (1.0 + (weights.lesion - 1.0) * batch.lesion)
        true_colour = self.generator.blend(batch.strain, (batch.bmode + 1) / 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            made = self.generator(bmode)
        parts = {
            "strain_l1": weighted_l1(made.strain, batch.strain, weight),
            "colour_l1": weighted_l1(made.colour, true_colour, weight),
            "ncc": (1 - ncc(made.strain, batch.strain, batch.covered)).mean(),
            "gradient": gradient_l1(made.strain, batch.strain, batch.covered),
        }
        loss = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
        # The padding is the same in both, so that it can never give a picture away.
        seen = batch.covered
        fake = made.strain * seen, made.colour * seen
        if ramp > 0:
            self.judges.requires_grad_(False)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
                parts["adversarial"] = lsgan_generator(self.judges(bmode, *fake))
            loss = loss + ramp * weights.adversarial * parts["adversarial"]
        if not math.isfinite(float(loss.detach())):
            raise NotFinite(f"step {self.step}", step=self.step)
        self.generator_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.config.gradient_clip)
        self.generator_optimiser.step()
        if self.step >= self.warmup_steps:
            real = batch.strain * seen, true_colour * seen
            parts["discriminator"] = self._train_judges(bmode, real, (fake[0].detach(), fake[1].detach()))
        self.step += 1
        self._update_ema()
        return {"loss": float(loss.detach()), **{name: float(part.detach()) for name, part in parts.items()}}

    def _train_judges(
        self, bmode: torch.Tensor, real: tuple[torch.Tensor, ...], fake: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        self.judges.requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = lsgan_discriminator(self.judges(bmode, *real), self.judges(bmode, *fake))
        self.judge_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.judge_optimiser.step()
        return loss

    def _set_learning_rates(self) -> None:
        """Rise over 100 steps (attention diverges without), then fall along a cosine to a twentieth."""
        progress = self.step / max(1, self.total_steps)
        factor = min(1.0, (self.step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.generator_optimiser.param_groups:
            group["lr"] = self.config.learning_rate * factor
        for group in self.judge_optimiser.param_groups:
            group["lr"] = self.config.discriminator_learning_rate * factor

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "generator": self.generator.state_dict(),
            "ema": self.ema.state_dict(),
            "judges": self.judges.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "judge_optimiser": self.judge_optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `state` returned."""
        self.step = int(state["step"])
        for name in ("generator", "ema", "judges", "generator_optimiser", "judge_optimiser"):
            getattr(self, name).load_state_dict(state[name])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
