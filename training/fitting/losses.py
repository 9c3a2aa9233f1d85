"""What the generator and the discriminators are asked to make small; all means over pixels that count.

weight  (N, 1, H, W), 0 where a frame does not cover the input, above 1 in lesions.
"""

import torch


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


def gradient_l1(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring-pixel steps: keeps borders of lesions in place."""
    difference = a - b
    rows = ((difference[:, :, 1:] - difference[:, :, :-1]).abs() * weight[:, :, 1:]).sum()
    columns = ((difference[..., 1:] - difference[..., :-1]).abs() * weight[..., 1:]).sum()
    return (rows + columns) / (2 * weight.sum()).clamp_min(1e-6)


def lsgan_discriminator(real: tuple[torch.Tensor, ...], made: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Least-squares loss of the judges: real patches towards 1, made ones towards 0."""
    terms = [((r - 1) ** 2).mean() + (m**2).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(terms).mean() / 2


def lsgan_generator(made: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Least-squares loss of the generator: made patches should score 1."""
    return torch.stack([((m - 1) ** 2).mean() for m in made]).mean()
