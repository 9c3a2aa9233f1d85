"""What is changed alike in true and made pictures before they are judged (10.48550/arXiv.2006.10738).

Shifts and holes only: colour carries the meaning here and must not be touched.
"""

import torch

SHIFT = 0.125
"""Largest shift, relative to the side."""
HOLE = 0.4
"""Side of the hole, relative to the picture's."""


class Disturbance:
    """One draw of shifts and holes for a batch, applied alike to every picture it is given."""

    def __init__(self, shape: tuple[int, int, int], rng: torch.Generator, device: torch.device) -> None:
        """shape  (N, H, W)."""
        n, self._height, self._width = shape

        def integers(limit: int) -> torch.Tensor:
            return torch.randint(-limit, limit + 1, (n, 1, 1), generator=rng).to(device)

        y = torch.arange(self._height, device=device).view(1, -1, 1)
        x = torch.arange(self._width, device=device).view(1, 1, -1)
        self._rows = y + integers(round(SHIFT * self._height))
        self._columns = x + integers(round(SHIFT * self._width))
        inside = (self._rows >= 0) & (self._rows < self._height)
        inside = inside & (self._columns >= 0) & (self._columns < self._width)
        centre_y = torch.rand((n, 1, 1), generator=rng).to(device) * self._height
        centre_x = torch.rand((n, 1, 1), generator=rng).to(device) * self._width
        hole = (y - centre_y).abs() < HOLE / 2 * self._height
        hole = hole & ((x - centre_x).abs() < HOLE / 2 * self._width)
        self._keep = (inside & ~hole).unsqueeze(1)
        self._sample = torch.arange(n, device=device).view(-1, 1, 1)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """image  (N, C, H, W), and so the result; differentiable."""
        rows, columns = self._rows.clamp(0, self._height - 1), self._columns.clamp(0, self._width - 1)
        moved = image[self._sample, :, rows, columns].permute(0, 3, 1, 2)
        return moved * self._keep
