"""Training checkpoints: everything a killed run needs to go on to the same result."""

import io
from pathlib import Path
from typing import Any

import torch

from training.errors import CheckpointInvalid
from training.replacing import replacing

CHECKPOINT = "checkpoint.pt"
_FORMAT = 1


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint of a run; a crash leaves the one before."""
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, **state}, buffer)
    with replacing(folder / CHECKPOINT) as file:
        file.write(buffer.getbuffer())


def has_checkpoint(folder: Path) -> bool:
    """Has a run begun in this folder?"""
    return (folder / CHECKPOINT).exists()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the checkpoint of a run, or None if there is none yet.

    Only tensors and plain values are unpickled. Raises CheckpointInvalid if it is damaged.
    """
    if not has_checkpoint(folder):
        return None
    path = folder / CHECKPOINT
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError) as error:
        raise CheckpointInvalid(f"{path} cannot be read ({error})", path=path) from error
    if state.get("format") != _FORMAT:
        raise CheckpointInvalid(f"{path} has format {state.get('format')}, not {_FORMAT}", path=path)
    return state
