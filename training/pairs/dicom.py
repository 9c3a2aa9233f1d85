"""DICOM files as training sees them: through the node's own reader, to the last bit."""

from pathlib import Path

import torch

from dicom_node.dicom.reading import ReadLimits, read_image
from dicom_node.dicom.skip import Skip
from model.preprocess import PreprocessSpec, to_tensor
from training.errors import TrainingError


class ImageSkipped(TrainingError):
    """The node would make no result of this image, so nothing is learnt from it."""


def tensors_from_dicom(path: Path, spec: PreprocessSpec) -> list[torch.Tensor]:
    """Return the network's input for each B-mode pane: float32 (1, spec.height, spec.width).

    Raises ImageSkipped with the node's own reason, and what `read_image` raises.
    """
    image = read_image(path, ReadLimits())
    if isinstance(image, Skip):
        raise ImageSkipped(f"{path.name}: {image.sentence}", code=image.code)
    return [to_tensor(pane.grey, spec) for pane in image.panes]
