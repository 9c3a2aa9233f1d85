"""The generator: a U-Net with a Transformer at its bottom, and two heads.

Head A gives the scalar ("mapped") E-mode, head B the colour E-mode. Colour is a known
function of strain, B-mode, colour map and alpha, so head B renders that and adds a small
learnt residual; the literal mode learns RGB outright, for comparison.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from model.blocks import ResidualBlock, TransformerBlock, UpBlock, group_norm
from model.colormap import get_colormap
from model.errors import SizeUnsupported, SpecInvalid
from model.strict import read_dataclass

COLOUR_MODES = ("rendered", "literal")
RESIDUAL_LIMIT = 0.2
"""Largest departure of a colour channel from the rendered overlay; 1 is full scale."""

SPREAD_FLOOR = 0.005
"""Smallest spread: below the steps in which strain is stored, no claim of certainty means anything."""

_STAGES = {1: 4, 2: 3, 4: 2}
"""How many stages lead from 1/unshuffle to 1/16 size."""


@dataclass(frozen=True)
class GeneratorSpec:
    """Everything needed to build the network that a set of weights fits."""

    channels: tuple[int, ...] = (24, 48, 96, 160)
    """Features at each size from the finest on, each half the one before; multiples of 4."""
    dim: int = 224
    """Token width at 1/16 size."""
    layers: int = 6
    heads: int = 7
    mlp_ratio: float = 3.0
    unshuffle: int = 1
    """The finest features lie at 1/unshuffle size (1, 2 or 4), each holding unshuffle² pixels. Strain is
    smooth over 2 to 3 mm: features at half size cost a third and lose nothing that a strain map has."""
    uncertainty: bool = False
    """Whether the strain head also says how far off it expects to be."""
    colormap: str = "emode-rainbow"
    colormap_version: int = 1
    alpha: float = 0.5
    """Share of colour in the overlay; the rest is B-mode."""
    colour_mode: str = "rendered"

    def __post_init__(self) -> None:
        problems = []
        if self.unshuffle not in _STAGES:
            problems.append(f"unshuffle is {self.unshuffle}, must be 1, 2 or 4")
        elif len(self.channels) != _STAGES[self.unshuffle] or any(c < 4 or c % 4 for c in self.channels):
            wanted = f"{_STAGES[self.unshuffle]} multiples of 4 with unshuffle {self.unshuffle}"
            problems.append(f"channels are {self.channels}, must be {wanted}")
        if self.heads < 1 or self.dim % self.heads:
            problems.append(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.layers < 0 or self.mlp_ratio <= 0:
            problems.append("layers must be 0 or more, mlp_ratio above 0")
        if not 0.0 < self.alpha <= 1.0:
            problems.append(f"alpha is {self.alpha}, must be in (0, 1]")
        if self.colour_mode not in COLOUR_MODES:
            problems.append(f'colour_mode is "{self.colour_mode}", must be one of {", ".join(COLOUR_MODES)}')
        if problems:
            raise SpecInvalid("generator: " + "; ".join(problems))
        get_colormap(self.colormap, self.colormap_version)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_json(cls, data: object) -> "GeneratorSpec":
        """Read the object that `to_json` wrote; SpecInvalid names each unknown or wrong key."""
        return read_dataclass(cls, data, "generator")


class GeneratorOutput(NamedTuple):
    """Both heads; `residual` is what head B adds to the rendered overlay (zero in literal mode)."""

    strain: torch.Tensor
    """(N, 1, H, W) in [0, 1]; 1 is soft."""
    colour: torch.Tensor
    """(N, 3, H, W) RGB in [0, 1]."""
    residual: torch.Tensor
    """(N, 3, H, W) in [-RESIDUAL_LIMIT, RESIDUAL_LIMIT]."""
    spread: torch.Tensor
    """(N, 1, H, W), the expected absolute error of `strain` (scale of a Laplace distribution); NaN where
    the network was not built to say so."""


class Generator(nn.Module):
    """B-mode in, strain and colour E-mode out; any size that is a multiple of 16."""

    table: torch.Tensor

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        finest, widths = spec.channels[0], (*spec.channels, spec.dim)
        self.stem = nn.Conv2d(spec.unshuffle**2, finest, 3, padding=1)
        # The two coarser stages are cheap in time and rich in context: they get two blocks each.
        depths = [1] * (len(spec.channels) - 2) + [2, 2]
        self.stages = nn.ModuleList(
            ResidualBlock(c, c) if n == 1 else nn.Sequential(*(ResidualBlock(c, c) for _ in range(n)))
            for c, n in zip(spec.channels, depths, strict=True)
        )
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.bottom = nn.Sequential(
            *(TransformerBlock(spec.dim, spec.heads, spec.mlp_ratio) for _ in range(spec.layers))
        )
        self.ups = nn.ModuleList(UpBlock(a, b) for a, b in pairwise(reversed(widths)))
        self.strain_head = nn.Sequential(
            group_norm(finest), nn.SiLU(), nn.Conv2d(finest, 2 if spec.uncertainty else 1, 3, padding=1)
        )
        # At full size few features must do: B-mode and strain say most of what colour is.
        carried, hidden = (finest, finest) if spec.unshuffle == 1 else (8, 16)
        self.carry: nn.Module = nn.Identity() if spec.unshuffle == 1 else nn.Conv2d(finest, carried, 1)
        colour_out = nn.Conv2d(hidden, 3, 1)
        # Colour starts as the plain rendering, and leaves it only where that pays.
        nn.init.zeros_(colour_out.weight)
        nn.init.zeros_(colour_out.bias)  # type: ignore[arg-type]
        self.colour_head = nn.Sequential(nn.Conv2d(carried + 2, hidden, 3, padding=1), nn.SiLU(), colour_out)
        colormap = get_colormap(spec.colormap, spec.colormap_version)
        table = torch.tensor(colormap.table.tolist(), dtype=torch.float32) / 255.0
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: torch.Tensor) -> GeneratorOutput:
        """x  (N, 1, H, W) in [-1, 1], as `to_tensor` gives it."""
        return self.with_features(x)[0]

    def with_features(self, x: torch.Tensor) -> tuple[GeneratorOutput, torch.Tensor]:
        """Both heads, and what they read, (N, channels[0], H/unshuffle, W/unshuffle): for training."""
        if x.shape[-1] % 16 or x.shape[-2] % 16:
            raise SizeUnsupported(f"{x.shape[-1]} x {x.shape[-2]}", height=x.shape[-2], width=x.shape[-1])
        bmode = (x.float() + 1.0) / 2.0
        features = self.features(x)
        strain, spread = self._strain(features)
        carried = self._enlarge(self.carry(features))
        raw = self.colour_head(torch.cat([carried, strain, bmode], dim=1)).float()
        if self.spec.colour_mode == "literal":
            return GeneratorOutput(strain, torch.sigmoid(raw), torch.zeros_like(raw), spread), features
        residual = RESIDUAL_LIMIT * torch.tanh(raw)
        colour = (self.blend(strain, bmode) + residual).clamp(0.0, 1.0)
        return GeneratorOutput(strain, colour, residual, spread), features

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The Transformer's output (N, dim, H/16, W/16) and the features of each size, finest first."""
        features = self.stem(functional.pixel_unshuffle(x, self.spec.unshuffle))
        skips = []
        for stage, down in zip(self.stages, self.downs, strict=True):
            features = stage(features)
            skips.append(features)
            features = down(features)
        return self.bottom(features), skips

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What both heads read: (N, channels[0], H/unshuffle, W/unshuffle)."""
        features, skips = self.encode(x)
        for up in self.ups:
            features = up(features, skips.pop())
        return features

    def _strain(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raw = self._enlarge(self.strain_head(features).float())
        strain = torch.sigmoid(raw[:, :1])
        if not self.spec.uncertainty:
            return strain, torch.full_like(strain, torch.nan)
        return strain, SPREAD_FLOOR + functional.softplus(raw[:, 1:] - 2.0)

    def _enlarge(self, x: torch.Tensor) -> torch.Tensor:
        if self.spec.unshuffle == 1:
            return x
        return functional.interpolate(
            x, scale_factor=self.spec.unshuffle, mode="bilinear", align_corners=False
        )

    def blend(self, strain: torch.Tensor, bmode: torch.Tensor) -> torch.Tensor:
        """Lay coloured strain over B-mode, both (N, 1, H, W) in [0, 1]; differentiable in strain."""
        position = strain.squeeze(1) * 255.0
        # NaN becomes 0 here, or indexing fails; the strain keeps it for whoever checks.
        low = position.detach().nan_to_num().floor().clamp(0, 254).long()
        fraction = (position - low).unsqueeze(-1)
        below = functional.embedding(low, self.table)
        above = functional.embedding(low + 1, self.table)
        colour = (below + fraction * (above - below)).permute(0, 3, 1, 2)
        return self.spec.alpha * colour + (1.0 - self.spec.alpha) * bmode


def count_parameters(module: nn.Module) -> int:
    """Return the number of learnt values."""
    return sum(parameter.numel() for parameter in module.parameters())
