"""What the generator reads of lesions before it says how they strain: where they lie, how they look.

A still is seen with many strains, since stiffness is drawn, and a network soon knows its stills by heart:
then strain follows the still and not its look. Where a lesion lies and what kind it looks like is certain
and is learnt from the look; strain that is told of it in these few numbers follows the look too. They are
an inner step, and no finding: nothing shows them.
"""

import torch
from torch import nn
from torch.nn import functional

from model.blocks import ResidualBlock, group_norm

KINDS = ("malignant", "fluid")
"""What a lesion may look like, after the first answer, which is whether there is one."""


class LesionReader(nn.Module):
    """Features to logits for each of their pixels: lies it in a lesion, and does that look like each kind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            group_norm(width), nn.SiLU(), nn.Conv2d(width, 1 + len(KINDS), 3, padding=1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features  (N, width, h, w); return (N, 1 + kinds, h, w)."""
        logits: torch.Tensor = self.head(features)
        return logits


class LesionTeller(nn.Module):
    """Adds to the features what was read of lesions; begins as adding nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tell = nn.Conv2d(2 + 2 * len(KINDS), width, 1)
        self.refine = ResidualBlock(width, width)
        for last in (self.tell, self.refine.conv2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """features (N, width, h, w), logits (N, 1 + kinds, h, w) of LesionReader; return new features.

        What is told of a kind is its mean over the lesion nearby, as a lesion is of one kind; and how much
        of the surroundings is lesion, as one that fills them strains otherwise.
        """
        # No loss of strain may change what is read: it would soon be the still's number, and not its look.
        answers = torch.sigmoid(logits.detach().float())
        lesion, kinds = answers[:, :1], answers[:, 1:]
        share = _nearby(lesion)
        mean = _nearby(kinds * lesion) / (share + 0.01)
        told = self.tell(torch.cat([lesion, share, lesion * mean, lesion * kinds], dim=1))
        refined: torch.Tensor = self.refine(features + told)
        return refined


def _nearby(x: torch.Tensor) -> torch.Tensor:
    """Mean over a square of half the picture's height."""
    side = x.shape[2] // 4 * 2 + 1
    return functional.avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False)
