"""Random changes of a batch: of the pair together what moves tissue, of B-mode alone what scanners do.

What is drawn for a pair is drawn on the CPU; only speckle, a number for each pixel, is drawn where it
is used.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch.nn import functional

from training.pairs.samples import Batch

ZOOM_SHARE = 0.5
"""Share of pairs that are seen from nearer or further away, and not centred."""


def augment(batch: Batch, rng: torch.Generator) -> Batch:
    """Flip and zoom pairs, and change how B-mode looks; strain stays relative to its frame."""
    return look(zoom(flip(batch, rng), rng), rng)


def flip(batch: Batch, rng: torch.Generator) -> Batch:
    """Mirror half of the pairs: B-mode and strain by one draw, or they would come apart."""
    drawn = (torch.rand((len(batch), 1, 1, 1), generator=rng) < 0.5).to(batch.bmode.device)
    return _with(batch, (torch.where(drawn, part.flip(-1), part) for part in _pictures(batch)))


def zoom(batch: Batch, rng: torch.Generator) -> Batch:
    """Cut some pairs closer or show them smaller, off centre; strain is then relative to what is left."""
    n, device = len(batch), batch.bmode.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand((n,), generator=rng)

    chosen = torch.rand((n,), generator=rng) < ZOOM_SHARE
    scale, stretch = uniform(0.7, 1.15), uniform(0.9, 1.1)
    room = (1.0 - scale).clamp_min(0.0)
    zero = torch.zeros(n)
    x, y = room * uniform(-1.0, 1.0), room * uniform(-1.0, 1.0)
    width = torch.where(chosen, scale * stretch, 1.0)
    height = torch.where(chosen, scale / stretch, 1.0)
    x, y = torch.where(chosen, x, 0.0), torch.where(chosen, y, 0.0)
    rows = torch.stack([width, zero, x, zero, height, y], dim=1).view(n, 2, 3).to(device)
    # One resampling for all parts; B-mode is black (0 after the shift) where nothing lies.
    together = torch.cat([batch.bmode + 1.0, batch.strain, batch.lesion, batch.covered], dim=1)
    grid = functional.affine_grid(rows, list(together.shape), align_corners=False)
    moved = functional.grid_sample(together, grid, align_corners=False)
    bmode, strain, lesion, covered = torch.split(moved, 1, dim=1)
    covered = (covered > 0.99).float()
    lesion = (lesion > 0.5).float() * covered
    strain = _relative(strain, covered) * covered
    keep = chosen.view(-1, 1, 1, 1).to(device)
    pairs = zip(((bmode * covered) - 1.0, strain, lesion, covered), _pictures(batch), strict=True)
    return _with(batch, (torch.where(keep, new, old) for new, old in pairs))


def _pictures(batch: Batch) -> tuple[torch.Tensor, ...]:
    return batch.bmode, batch.strain, batch.lesion, batch.covered


def _with(batch: Batch, pictures: Iterable[torch.Tensor]) -> Batch:
    """The batch with other pictures, in the order of `_pictures`."""
    bmode, strain, lesion, covered = pictures
    return replace(batch, bmode=bmode, strain=strain, lesion=lesion, covered=covered)


def _relative(strain: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """Make the median of what is covered one half again, as `strain_index` does for a frame."""
    seen = torch.where(covered > 0, strain, torch.nan)[:, :, ::2, ::2].flatten(1)
    median = seen.nanmedian(dim=1).values.nan_to_num(0.5).clamp_min(0.05).view(-1, 1, 1, 1)
    return (strain * 0.5 / median).clamp(0.0, 1.0)


def look(batch: Batch, rng: torch.Generator) -> Batch:
    """Change what scanners change and tissue does not: sharpness, speckle, grey curve, gain, time gain."""
    n, device = len(batch), batch.bmode.device
    height, width = batch.bmode.shape[2:]

    def uniform(low: float, high: float) -> torch.Tensor:
        return (low + (high - low) * torch.rand((n, 1, 1, 1), generator=rng)).to(device)

    grey = (batch.bmode + 1.0) / 2.0
    blurred = functional.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    coarse = functional.avg_pool2d(blurred, 3, stride=1, padding=1, count_include_pad=False)
    # From doubly smoothed to sharpened: speckle reduction, resolution, edge enhancement.
    amount = uniform(-0.4, 1.6)
    grey = grey.lerp(blurred, amount.clamp(-1.0, 1.0)).lerp(coarse, (amount - 1.0).clamp_min(0.0))
    grey = grey.clamp(1e-4, 1.0) ** uniform(0.55, 1.7)
    # A narrow or a wide dynamic range, before speckle: dull tissue under strong speckle is a look, too.
    grey = (grey - 0.4) * uniform(0.45, 1.3) + 0.4
    # Most pictures get little more speckle than they have, some a lot.
    grey = grey * (1.0 + uniform(0.0, 0.52) ** 2 * _speckle(n, height, width, rng, device))
    down = torch.linspace(-0.5, 0.5, height, device=device).view(1, 1, -1, 1) * uniform(-0.3, 0.3)
    across = torch.linspace(-0.5, 0.5, width, device=device).view(1, 1, 1, -1) * uniform(-0.15, 0.15)
    grey = grey + uniform(-0.12, 0.12) + down + across
    bmode = torch.where(batch.covered > 0, grey.clamp(0.0, 1.0) * 2.0 - 1.0, batch.bmode)
    return replace(batch, bmode=bmode)


def _speckle(n: int, height: int, width: int, rng: torch.Generator, device: torch.device) -> torch.Tensor:
    """Noise (n, 1, height, width) of unit deviation; its grain is a point, a streak, or between."""
    there = torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
    noise = torch.randn((n, 1, height, width), generator=there, device=device)
    grain = torch.rand((n, 1, 1, 1), generator=rng).to(device)
    wide = functional.avg_pool2d(noise, (1, 5), stride=1, padding=(0, 2))
    broad = functional.avg_pool2d(wide, (3, 1), stride=1, padding=(1, 0))
    noise = noise.lerp(wide, (2 * grain).clamp_max(1.0)).lerp(broad, (2 * grain - 1).clamp_min(0.0))
    return noise / noise.std(dim=(2, 3), keepdim=True)
