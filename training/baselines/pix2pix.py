"""pix2pix as published (Isola 2017, 10.1109/CVPR.2017.632), B-mode in and colour E-mode out.

V-EUS (10.1038/s41467-023-36102-1) uses this network: 64 features, eight halvings, batch norm, dropout,
a judge of 70-pixel patches. Strain is read back from the colour.
"""

import torch
from torch import nn
from torch.nn import functional

FEATURES = 64
HALVINGS = 8
DROPOUT = 0.5
_DROPPED = 3
"""Decoder blocks with dropout, where the paper has it: next after the innermost."""


class Pix2PixGenerator(nn.Module):
    """A U-Net of strided 4 x 4 convolutions; any size that is a multiple of 2**halvings."""

    def __init__(self, features: int = FEATURES, halvings: int = HALVINGS) -> None:
        super().__init__()
        widths = [features * min(2**i, 8) for i in range(halvings)]
        ins, last = [1, *widths[:-1]], halvings - 1
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1, bias=i in (0, last))
            for i, (a, b) in enumerate(zip(ins, widths, strict=True))
        )
        self.down_norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:-1])
        outs = [*reversed(widths[:-1]), 3]
        ups = [widths[-1], *(2 * width for width in reversed(widths[:-1]))]
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=i == last)
            for i, (a, b) in enumerate(zip(ups, outs, strict=True))
        )
        self.up_norms = nn.ModuleList(nn.BatchNorm2d(width) for width in outs[:-1])
        self.apply(_published_start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x  (N, 1, H, W) in [-1, 1]; returns RGB (N, 3, H, W) in [-1, 1]."""
        skips = []
        for i, down in enumerate(self.downs):
            x = down(x if i == 0 else functional.leaky_relu(x, 0.2))
            if 0 < i < len(self.downs) - 1:
                x = self.down_norms[i - 1](x)
            skips.append(x)
        skips.pop()
        for i, up in enumerate(self.ups):
            x = up(functional.relu(x))
            if not skips:
                break
            x = self.up_norms[i](x)
            if 1 <= i <= _DROPPED:
                x = functional.dropout(x, DROPOUT, self.training)
            x = torch.cat([skips.pop(), x], dim=1)
        return torch.tanh(x)


class Pix2PixJudge(nn.Module):
    """Scores patches of 70 x 70 of [B-mode, colour]; logits, (N, 1, h, w)."""

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4, features, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = features
        for stride in (2, 2, 1):
            layers += [
                nn.Conv2d(width, 2 * width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(2 * width),
                nn.LeakyReLU(0.2),
            ]
            width *= 2
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))
        self.apply(_published_start)

    def forward(self, bmode: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.body(torch.cat([bmode, colour], dim=1))
        return scores


def halvings_for(height: int, width: int) -> int:
    """Eight as published, or as often as both sides can be halved."""
    return next(n for n in range(HALVINGS, -1, -1) if height % 2**n == 0 and width % 2**n == 0)


def _published_start(module: nn.Module) -> None:
    """Weights from N(0, 0.02), the gains of norms from N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
