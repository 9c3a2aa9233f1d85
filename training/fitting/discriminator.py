"""Conditional PatchGAN discriminators: one judges [B-mode, strain], one [B-mode, colour]."""

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches (about 70 pixels wide with three strided layers) as real or made.

    Spectral norm on every convolution keeps its slope bounded, so that a few thousand pairs
    do not let it win outright.
    """

    def __init__(self, c_in: int, features: int, layers: int = 3) -> None:
        super().__init__()
        widths = [features * min(2**k, 8) for k in range(layers + 1)]
        convolutions = [nn.Conv2d(c_in, widths[0], 4, stride=2, padding=1)]
        for k in range(1, layers + 1):
            stride = 2 if k < layers else 1
            convolutions.append(nn.Conv2d(widths[k - 1], widths[k], 4, stride=stride, padding=1))
        self.body = nn.ModuleList(spectral_norm(conv) for conv in convolutions)
        self.score = spectral_norm(nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, condition: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Return patch scores (N, 1, h, w); both inputs in [-1, 1] or [0, 1], same size."""
        x = torch.cat([condition, image], dim=1)
        for conv in self.body:
            x = functional.leaky_relu(conv(x), 0.2)
        scores: torch.Tensor = self.score(x)
        return scores


class DiscriminatorPair(nn.Module):
    """The two judges of the paper, trained by one optimiser."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.strain = PatchDiscriminator(2, features)
        self.colour = PatchDiscriminator(4, features)

    def forward(
        self, bmode: torch.Tensor, strain: torch.Tensor, colour: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the patch scores of the mapped and of the colour E-mode."""
        return self.strain(bmode, strain), self.colour(bmode, colour)
