"""What teaches the generator to read lesions, and to strain by what it reads; see model.lesions."""

import torch
from torch.nn import functional

from training.pairs.samples import Batch


def reading_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Where lesions lie, by cross-entropy and overlap (Dice), and how they look, by cross-entropy.

    logits  (N, 1 + kinds, h, w). Each lesion weighs the same; pairs of which nothing is known do not count.
    """
    size = (logits.shape[2], logits.shape[3])
    lesion, covered = (functional.adaptive_avg_pool2d(part, size) for part in (batch.lesion, batch.covered))
    known = covered * (batch.looks[:, :1] >= 0).float().view(-1, 1, 1, 1)
    where = functional.binary_cross_entropy_with_logits(logits[:, :1], lesion, reduction="none")
    found = (where * known).sum() / known.sum().clamp_min(1e-6)
    inside = lesion * known
    area = inside.sum(dim=(1, 2, 3))
    said = torch.sigmoid(logits[:, :1]) * known
    overlap = 2 * (said * inside).sum(dim=(1, 2, 3)) / (said.sum(dim=(1, 2, 3)) + area).clamp_min(1e-6)
    # A mean over lesions of the means inside them: a small one is no less of a lesion.
    share = inside / area.clamp_min(1e-6).view(-1, 1, 1, 1)
    looks = batch.looks.clamp_min(0.0).view(len(batch), -1, 1, 1).expand_as(logits[:, 1:])
    look = functional.binary_cross_entropy_with_logits(logits[:, 1:], looks, reduction="none")
    has = area > 0
    return found + (((1 - overlap) * has).sum() + (look * share).sum()) / has.sum().clamp_min(1)


def drowning(batch: Batch, width: int, unshuffle: int, rng: torch.Generator) -> torch.Tensor:
    """Noise (N, width, h, w) that hides from the heads what features say of a lesion as a whole.

    One normal number for each feature over the whole lesion: its level is drowned, its detail is not. So
    how a lesion as a whole strains has to follow what was read of it.
    """
    level = torch.randn((len(batch), width, 1, 1), generator=rng).to(batch.lesion.device)
    return level * functional.avg_pool2d(batch.lesion, unshuffle)
