"""Pixels to tensors and back: the only way into and out of the generator."""

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from model.errors import FrameInvalid, FrameTooSmall, SpecInvalid
from model.strict import read_dataclass

Frame = NDArray[np.uint8]
"""One grey B-mode frame (H, W)."""

FloatMap = NDArray[np.float32]


@dataclass(frozen=True)
class PreprocessSpec:
    """How frames are scaled for one set of weights; it ships inside the bundle."""

    height: int = 256
    """Rows of the network input; a multiple of 16."""
    width: int = 256
    """Columns of the network input; a multiple of 16."""
    min_side: int = 64
    """Pixels; a frame with a shorter side is refused: enlarging cannot bring back anatomy."""
    pad_value: float = -1.0
    """Fills what the frame does not cover; -1 is black, as around a scanner's image."""

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            side = getattr(self, name)
            if side < 16 or side % 16:
                raise SpecInvalid(f"preprocess.{name} is {side}, must be a positive multiple of 16")
        if self.min_side < 1:
            raise SpecInvalid(f"preprocess.min_side is {self.min_side}, must be at least 1")
        if not -1.0 <= self.pad_value <= 1.0:
            raise SpecInvalid(f"preprocess.pad_value is {self.pad_value}, must be in [-1, 1]")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> "PreprocessSpec":
        """Read the object that `to_json` wrote; SpecInvalid names each unknown or wrong key."""
        return read_dataclass(cls, data, "preprocess")


@dataclass(frozen=True)
class Placement:
    """Where a frame lies in the network input, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)


def place(shape: tuple[int, int], spec: PreprocessSpec) -> Placement:
    """Fit a frame of shape (H, W) into the input: aspect ratio kept, centred."""
    scale = min(spec.height / shape[0], spec.width / shape[1])
    height = min(spec.height, max(1, round(shape[0] * scale)))
    width = min(spec.width, max(1, round(shape[1] * scale)))
    return Placement((spec.height - height) // 2, (spec.width - width) // 2, height, width)


def _resize(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize to (height, width): area average when shrinking, linear when enlarging."""
    if image.shape[:2] == (height, width):
        return image
    if height < image.shape[0]:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    # On bytes the plain linear mode may differ between processors, the exact one may not.
    linear = cv2.INTER_LINEAR_EXACT if image.dtype == np.uint8 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=linear))


def to_tensor(frame: Frame, spec: PreprocessSpec) -> torch.Tensor:
    """Scale one B-mode frame to network input.

    frame  uint8 (H, W), any size, cropped to the B-mode region.
    return float32 (1, spec.height, spec.width) in [-1, 1]; aspect ratio kept, centred, padded
           with spec.pad_value.

    Raises FrameInvalid if it is not a grey uint8 image, FrameTooSmall if either side is under
    spec.min_side pixels. `to_frame` undoes the pad and the scale; resampling loss remains.
    """
    if frame.ndim != 2 or frame.dtype != np.uint8:
        raise FrameInvalid(f"got {frame.dtype} {frame.shape}", shape=frame.shape)
    if min(frame.shape) < spec.min_side:
        height, width = frame.shape
        raise FrameTooSmall(
            f"{width} x {height} pixels, at least {spec.min_side} on each side are needed",
            height=height, width=width, min_side=spec.min_side,
        )  # fmt: skip
    at = place((frame.shape[0], frame.shape[1]), spec)
    canvas = torch.full((1, spec.height, spec.width), spec.pad_value, dtype=torch.float32)
    resized = _resize(np.ascontiguousarray(frame), at.height, at.width)
    canvas[0, at.rows, at.columns] = torch.from_numpy(resized.astype(np.float32) / 127.5 - 1.0)
    return canvas


def to_frame(map_: FloatMap | torch.Tensor, shape: tuple[int, int], spec: PreprocessSpec) -> FloatMap:
    """Undo pad and scale: a map of the network's size becomes one of the frame's.

    map_   float32 (spec.height, spec.width).
    shape  (H, W) of the frame that was given to `to_tensor`.
    return float32 (H, W), same unit as map_.
    """
    values = map_.detach().float().cpu().numpy() if isinstance(map_, torch.Tensor) else map_
    if values.shape != (spec.height, spec.width):
        raise FrameInvalid(f"a map of shape {values.shape} is not ({spec.height}, {spec.width})")
    at = place(shape, spec)
    inner = np.ascontiguousarray(values[at.rows, at.columns], dtype=np.float32)
    return np.asarray(_resize(inner, *shape), dtype=np.float32)
