"""What the generator and the discriminators are asked to make small; all means over pixels that count.

weight  (N, 1, H, W), 0 where a frame does not cover the input, above 1 in lesions.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional

from training.fitting.discriminator import Verdict

_RING, _APART = 1 / 16, 1 / 12
"""Width of the ring around a lesion, and of what is neither lesion nor beside it: 2 to 3 mm of the usual
height of a picture, to which they are relative."""
_LEAST_AROUND = 0.01
"""Share of the picture that there must be to compare with."""
_FAINTEST = 0.02
"""Added to strain before a logarithm is taken: below it the colour map has no other colour."""


def weighted_l1(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference, channels alike."""
    return ((a - b).abs() * weight).sum() / (weight.sum() * a.shape[1]).clamp_min(1e-6)


def ncc(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Normalised cross-correlation at zero shift of each sample, (N,)."""
    total = weight.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    a = a - (a * weight).sum(dim=(1, 2, 3), keepdim=True) / total
    b = b - (b * weight).sum(dim=(1, 2, 3), keepdim=True) / total
    covariance = (a * b * weight).sum(dim=(1, 2, 3))
    variance = (a * a * weight).sum(dim=(1, 2, 3)) * (b * b * weight).sum(dim=(1, 2, 3))
    return covariance / variance.clamp_min(1e-8).sqrt()


def lesion_ncc(a: torch.Tensor, b: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """NCC inside lesion boxes (N, 1, H, W), mean over those samples that have one; 0 if none has."""
    has = box.flatten(1).sum(dim=1) > 0
    return ncc(a, b, box)[has].mean() if bool(has.any()) else a.sum() * 0.0


def strain_ratio(
    a: torch.Tensor, b: torch.Tensor, lesion: torch.Tensor, covered: torch.Tensor
) -> torch.Tensor:
    """Squared difference of log strain ratios, mean over the ratios that can be taken.

    Two for each lesion (N, 1, H, W): against the ring around it, and against what lies beside it at its
    depth. One without enough tissue to compare with is left out; 0 if none is left.
    """
    inside = lesion * covered
    rows = (inside.amax(dim=3, keepdim=True) > 0).float()
    ring = (_grown(inside, _RING) - inside).clamp_min(0.0) * covered
    beside = rows * (1.0 - _grown(inside, _APART)) * covered
    total, count = a.sum() * 0.0, 0
    for around in (ring, beside):
        enough = (inside.sum(dim=(1, 2, 3)) > 0) & (around.mean(dim=(1, 2, 3)) > _LEAST_AROUND)
        apart = _log_ratio(a, inside, around) - _log_ratio(b, inside, around)
        total = total + (apart.square() * enough).sum()
        count += int(enough.sum())
    return total / max(count, 1)


def _grown(area: torch.Tensor, share: float) -> torch.Tensor:
    radius = max(1, round(share * area.shape[2]))
    return functional.max_pool2d(area, 2 * radius + 1, stride=1, padding=radius)


def _log_ratio(strain: torch.Tensor, inside: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    means = [
        (strain * area).sum(dim=(1, 2, 3)) / area.sum(dim=(1, 2, 3)).clamp_min(1.0)
        for area in (around, inside)
    ]
    return torch.log(means[0] + _FAINTEST) - torch.log(means[1] + _FAINTEST)


def gradient_l1(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring-pixel steps: keeps borders of lesions in place."""
    difference = a - b
    rows = ((difference[:, :, 1:] - difference[:, :, :-1]).abs() * weight[:, :, 1:]).sum()
    columns = ((difference[..., 1:] - difference[..., :-1]).abs() * weight[..., 1:]).sum()
    return (rows + columns) / (2 * weight.sum()).clamp_min(1e-6)


def spread_likelihood(error: torch.Tensor, spread: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of absolute errors under a Laplace distribution of scale `spread`.

    The error is taken as it is: a network must not be rewarded for being wrong where it said so.
    """
    values = error.detach().abs() / spread + spread.log()
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)


def soft_inversion(colour: torch.Tensor, table: torch.Tensor, alpha: float) -> torch.Tensor:
    """Strain read back from an overlay, differentiably: entries weighted by nearness of chroma.

    colour (N, 3, H, W) in [0, 1]; table (256, 3) in [0, 1]; return (N, 1, H, W).
    """
    chroma = (colour - colour.mean(dim=1, keepdim=True)) / alpha
    entries = table - table.mean(dim=1, keepdim=True)
    distance = torch.cdist(chroma.permute(0, 2, 3, 1).flatten(1, 2), entries.expand(len(colour), -1, -1))
    weights = torch.softmax(-distance.square() / (2 * 0.03**2), dim=-1)
    position = torch.linspace(0, 1, len(table), device=table.device)
    return (weights @ position).view(len(colour), 1, *colour.shape[2:])


def lsgan_discriminator(real: Sequence[Verdict], made: Sequence[Verdict]) -> torch.Tensor:
    """Least-squares loss of the judges: real patches towards 1, made ones towards 0."""
    pairs = zip(real, made, strict=True)
    terms = [((r.scores.float() - 1) ** 2).mean() + (m.scores.float() ** 2).mean() for r, m in pairs]
    return torch.stack(terms).mean() / 2


def lsgan_generator(made: Sequence[Verdict]) -> torch.Tensor:
    """Least-squares loss of the generator: made patches should score 1."""
    return torch.stack([((m.scores.float() - 1) ** 2).mean() for m in made]).mean()


def feature_matching(real: Sequence[Verdict], made: Sequence[Verdict]) -> torch.Tensor:
    """Mean absolute difference of what the judges' layers see (10.48550/arXiv.1711.11585)."""
    terms = [
        (a.detach().float() - b.float()).abs().mean()
        for r, m in zip(real, made, strict=True)
        for a, b in zip(r.features, m.features, strict=True)
    ]
    return torch.stack(terms).mean()
