"""Building blocks of the generator: residual convolutions and global attention.

GroupNorm instead of BatchNorm and no dropout: one image gives the same result alone and in
a batch, in fp32 and, nearly, in bf16.
"""

import torch
from torch import nn
from torch.nn import functional


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with eight groups, or four where eight do not divide the channels."""
    return nn.GroupNorm(8 if channels % 8 == 0 else 4, channels)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after norm and SiLU, added to a (projected) input."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(c_in), group_norm(c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip: nn.Module = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        out: torch.Tensor = self.skip(x) + y
        return out


class UpBlock(nn.Module):
    """Double the size, join the encoder's features of that size, and refine once."""

    def __init__(self, c_in: int, c_skip: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(c_in, c_skip, 1)
        self.refine = ResidualBlock(2 * c_skip, c_skip)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate(self.reduce(x), scale_factor=2, mode="bilinear", align_corners=False)
        out: torch.Tensor = self.refine(torch.cat([x, skip], dim=1))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm global attention and a feed-forward part with a depthwise convolution.

    The 3 x 3 depthwise convolution tells tokens where they are (as in PVTv2 and SegFormer),
    so there is no position table and any image size works.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = round(dim * mlp_ratio)
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.local = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x  (N, dim, H, W), and so the result."""
        n, dim, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm1(tokens)).reshape(n, -1, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(attended.transpose(1, 2).reshape(n, -1, dim))
        wide = self.widen(self.norm2(tokens))
        grid = wide.transpose(1, 2).reshape(n, -1, height, width)
        wide = wide + self.local(grid).flatten(2).transpose(1, 2)
        tokens = tokens + self.narrow(functional.gelu(wide))
        out: torch.Tensor = tokens.transpose(1, 2).reshape(n, dim, height, width)
        return out
