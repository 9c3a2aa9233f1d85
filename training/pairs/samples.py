"""Pairs at network size, held in memory as bytes, and the batches taken from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from model.preprocess import PreprocessSpec, place, to_tensor
from training.pairs.folder import read_pair
from training.pairs.pair import Pair

UNKNOWN_LOOK = -1.0
"""Where nobody said how the lesion looks, or whether there is one."""

_SUSPICION = {"none": 0.0, "benign": 0.0, "cyst": 0.0, "lipoma": 0.0, "isoechoic": 0.5, "malignant": 1.0}
"""By the kind that a pair's `info` names. An isoechoic lesion looks like neither."""


@dataclass(frozen=True, eq=False)
class Samples:
    """All pairs of a set; pictures are uint8 (N, 1, height, width)."""

    bmode: torch.Tensor
    strain: torch.Tensor
    lesion: torch.Tensor
    suspicion: torch.Tensor
    """float32 (N,): how malignant the lesion looks, 0 to 1; UNKNOWN_LOOK where nobody said."""
    placement: torch.Tensor
    """int64 (N, 4): top, left, bottom, right of the frame within the picture; padding lies outside."""

    def __len__(self) -> int:
        return len(self.bmode)

    def to(self, device: torch.device) -> "Samples":
        """Move everything to a device: on a GPU that can hold them, batches then cost no transfer."""
        return Samples(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    @classmethod
    def empty(cls, n: int, spec: PreprocessSpec) -> "Samples":
        """Room for `n` pairs."""

        def picture() -> torch.Tensor:
            return torch.zeros((n, 1, spec.height, spec.width), dtype=torch.uint8)

        suspicion, placement = torch.full((n,), UNKNOWN_LOOK), torch.zeros((n, 4), dtype=torch.int64)
        return cls(picture(), picture(), picture(), suspicion, placement)


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of float32 tensors (N, 1, height, width)."""

    bmode: torch.Tensor
    """[-1, 1], as `to_tensor` gives it."""
    strain: torch.Tensor
    lesion: torch.Tensor
    covered: torch.Tensor
    """1 where the frame lies, 0 in the padding."""
    suspicion: torch.Tensor
    """(N,), see Samples."""

    def __len__(self) -> int:
        return len(self.bmode)


def load_samples(files: Sequence[Path], spec: PreprocessSpec) -> Iterator[tuple[int, Samples]]:
    """Read pairs one by one; yields (how many are read, the growing set) for progress bars."""
    samples = Samples.empty(len(files), spec)
    for i, file in enumerate(files):
        _fill(samples, i, read_pair(file), spec)
        yield i + 1, samples


def load_all(files: Sequence[Path], spec: PreprocessSpec) -> Samples:
    """Read every pair of a list of files."""
    samples = Samples.empty(0, spec)
    for _, samples in load_samples(files, spec):  # noqa: B007 - the last one is whole
        pass
    return samples


def _fill(samples: Samples, i: int, pair: Pair, spec: PreprocessSpec) -> None:
    at = place((pair.bmode.shape[0], pair.bmode.shape[1]), spec)
    # to_tensor maps bytes to [-1, 1] in equal steps, so bytes hold it without loss.
    scaled = to_tensor(pair.bmode, spec)
    samples.bmode[i] = ((scaled + 1.0) * 127.5).round().to(torch.uint8)

    def shrink(image: np.ndarray) -> torch.Tensor:
        resized = cv2.resize(image, (at.width, at.height), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(np.round(resized * 255).astype(np.uint8))

    samples.strain[i, 0, at.rows, at.columns] = shrink(pair.strain)
    if pair.mask is not None:
        samples.lesion[i, 0, at.rows, at.columns] = (shrink(pair.mask.astype(np.float32)) > 127).byte()
    samples.suspicion[i] = _SUSPICION.get(str(pair.info.get("kind")), UNKNOWN_LOOK)
    samples.placement[i] = torch.tensor([at.rows.start, at.columns.start, at.rows.stop, at.columns.stop])


def take(samples: Samples, index: torch.Tensor, shrink: int = 1) -> Batch:
    """Take the pairs of one batch as they are, smaller by `shrink`."""
    index = index.to(samples.bmode.device)
    height, width = samples.bmode.shape[2:]
    top, left, bottom, right = samples.placement[index].view(-1, 4, 1, 1).unbind(1)
    rows = torch.arange(height, device=index.device).view(1, -1, 1)
    columns = torch.arange(width, device=index.device).view(1, 1, -1)
    covered = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    bmode = samples.bmode[index].float() / 127.5 - 1.0
    parts = [bmode, samples.strain[index].float() / 255.0, samples.lesion[index].float()]
    parts.append(covered.unsqueeze(1).float())
    if shrink > 1:
        parts = [functional.avg_pool2d(part, shrink) for part in parts]
        parts[2:] = [(part >= 0.5).float() for part in parts[2:]]
    bmode, strain, lesion, inside = parts
    return Batch(bmode, strain, lesion, inside, samples.suspicion[index])


def lesion_boxes(lesion: torch.Tensor, margin: float = 0.2) -> torch.Tensor:
    """Bounding boxes of lesions (N, 1, H, W), wider by a share of their size on each side.

    return (N, 4): centre x, centre y, half width, half height in the coordinates of grid_sample (-1 to
           1 over the picture); zeros where there is no lesion.
    """
    ends = []
    for axis in (3, 2):
        inside = lesion.amax(dim=5 - axis).squeeze(1) > 0
        n = inside.shape[1]
        first = inside.float().argmax(dim=1)
        last = n - inside.flip(1).float().argmax(dim=1)
        ends.append(((first + last).float() / n - 1.0, (last - first).float() / n * (1.0 + 2.0 * margin)))
    boxes = torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], dim=1)
    has = lesion.flatten(1).amax(dim=1) > 0
    return boxes * has.unsqueeze(1)


def box_area(boxes: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """Boxes (N, 4) as pictures: 1 inside, 0 outside and in the padding; shape of covered (N, 1, H, W)."""
    height, width = covered.shape[2:]
    y = (torch.arange(height, device=covered.device) + 0.5).view(1, 1, -1, 1) * 2 / height - 1
    x = (torch.arange(width, device=covered.device) + 0.5).view(1, 1, 1, -1) * 2 / width - 1
    centre_x, centre_y, half_width, half_height = boxes.view(-1, 4, 1, 1, 1).unbind(1)
    inside = ((x - centre_x).abs() <= half_width) & ((y - centre_y).abs() <= half_height)
    return inside * (half_width > 0) * covered


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of samples in one epoch: a function of seed and epoch, so that resuming needs no state."""
    return torch.randperm(n, generator=step_rng(seed, epoch, 0))


def step_rng(seed: int, epoch: int, step: int, rank: int = 0) -> torch.Generator:
    """Random numbers of one training step, the same however often training was interrupted."""
    state = np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & 0x7FFF_FFFF_FFFF_FFFF)
