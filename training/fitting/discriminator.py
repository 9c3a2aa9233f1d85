"""Conditional PatchGAN discriminators: of [B-mode, strain], of [B-mode, colour], and of the lesion."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

LESION_SIDE = 64
"""Pixels of the square into which a lesion's surroundings are scaled for their judge."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What one judge thinks of a batch."""

    scores: torch.Tensor
    """(N, 1, h, w); towards 1 for true, towards 0 for made."""
    features: tuple[torch.Tensor, ...]
    """What each of its layers saw."""


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

    def forward(self, x: torch.Tensor) -> Verdict:
        """x  (N, c_in, H, W), condition and picture, in [-1, 1] or [0, 1]."""
        seen = []
        for conv in self.body:
            x = functional.leaky_relu(conv(x), 0.2)
            seen.append(x)
        return Verdict(self.score(x), tuple(seen))


class Judges(nn.Module):
    """The two judges of the paper, at one or two scales, and one of the lesion; one optimiser trains them."""

    def __init__(self, features: int, scales: int = 1, *, lesion: bool = True) -> None:
        super().__init__()
        self.strain = nn.ModuleList(PatchDiscriminator(2, features) for _ in range(scales))
        self.colour = nn.ModuleList(PatchDiscriminator(4, features) for _ in range(scales))
        self.lesion = PatchDiscriminator(5, features, layers=2) if lesion else None

    def forward(
        self, bmode: torch.Tensor, strain: torch.Tensor, colour: torch.Tensor, box: torch.Tensor
    ) -> list[Verdict]:
        """Judge the mapped and the colour E-mode, (N, 1, H, W) and (N, 3, H, W), of a B-mode (N, 1, H, W).

        box  (N, 4): centre x, centre y, half width, half height of the lesion's surroundings, in the
             coordinates of grid_sample: -1 to 1.
        """
        verdicts = []
        for judges, image in ((self.strain, strain), (self.colour, colour)):
            both = torch.cat([bmode, image], dim=1)
            for judge in judges:
                verdicts.append(judge(both))
                both = functional.avg_pool2d(both, 2)
        if self.lesion is not None:
            verdicts.append(self.lesion(crop(torch.cat([bmode, strain, colour], dim=1), box)))
        return verdicts


def crop(image: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """Cut a box (N, 4) out of each picture (N, C, H, W) and scale it to LESION_SIDE."""
    n = len(image)
    zero = torch.zeros_like(box[:, 0])
    x, y, half_width, half_height = box.unbind(1)
    rows = torch.stack([half_width, zero, x, zero, half_height, y], dim=1).view(n, 2, 3)
    grid = functional.affine_grid(rows, [n, image.shape[1], LESION_SIDE, LESION_SIDE], align_corners=False)
    return functional.grid_sample(image.float(), grid, align_corners=False)
