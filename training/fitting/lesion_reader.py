"""Reads lesions from the generator's features while it learns; a bundle does not hold it.

Strain says only in part what a lesion is: its stiffness is drawn, and the same look gives another one each
time. What is certain is where the lesion lies and how its kind looks, and asking for that as well makes
the features hold it.
"""

import torch
from torch import nn
from torch.nn import functional

from model.blocks import group_norm
from training.pairs.samples import Batch


class LesionReader(nn.Module):
    """Features to two logits for each of their pixels: lies it in a lesion, and does that look malignant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Sequential(group_norm(width), nn.SiLU(), nn.Conv2d(width, 2, 3, padding=1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features  (N, width, h, w); return (N, 2, h, w)."""
        logits: torch.Tensor = self.head(features)
        return logits


def reading_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy of both answers, each lesion weighing the same; 0 where nothing is known of any.

    Where lesions lie is asked of every pixel, and as much inside lesions as outside.
    """
    size = (logits.shape[2], logits.shape[3])
    lesion, covered = (functional.adaptive_avg_pool2d(part, size) for part in (batch.lesion, batch.covered))
    known = (batch.suspicion >= 0).float().view(-1, 1, 1, 1)
    inside, outside = lesion * covered * known, (1 - lesion) * covered * known
    where = functional.binary_cross_entropy_with_logits(logits[:, :1], lesion, reduction="none")
    # A mean over lesions of the means inside them: a small one is no less of a lesion.
    share = inside / inside.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    malignant = batch.suspicion.clamp_min(0.0).view(-1, 1, 1, 1).expand_as(lesion)
    look = functional.binary_cross_entropy_with_logits(logits[:, 1:], malignant, reduction="none")
    lesions = (inside.sum(dim=(1, 2, 3)) > 0).sum().clamp_min(1)
    found = (where * outside).sum() / outside.sum().clamp_min(1e-6) + (where * share).sum() / lesions
    return found + (look * share).sum() / lesions
