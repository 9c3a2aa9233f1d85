"""Pixels to tensors and back."""

import hashlib

import numpy as np
import pytest
import torch

from model.errors import FrameInvalid, FrameTooSmall, SpecInvalid
from model.preprocess import PreprocessSpec, place, to_frame, to_tensor

SPEC = PreprocessSpec(height=128, width=160)


def ramp(height: int, width: int) -> np.ndarray:
    """A frame made of integer arithmetic alone: the same everywhere."""
    y, x = np.mgrid[:height, :width]
    return ((y * 7 + x * 3 + (y * x) % 31) % 256).astype(np.uint8)


@pytest.mark.parametrize("shape", [(128, 160), (300, 500), (700, 500), (64, 64), (65, 640)])
def test_frame_is_centred_scaled_and_padded(shape):
    tensor = to_tensor(np.full(shape, 255, np.uint8), SPEC)
    at = place(shape, SPEC)
    assert tensor.shape == (1, 128, 160)
    assert tensor.dtype == torch.float32
    inside = tensor[0, at.rows, at.columns]
    assert torch.all(inside == 1.0)
    assert tensor.sum() == inside.numel() - (tensor.numel() - inside.numel())
    assert abs(at.width / at.height - shape[1] / shape[0]) < 0.03 * shape[1] / shape[0]
    assert abs(at.top - (128 - at.height - at.top)) <= 1
    assert abs(at.left - (160 - at.width - at.left)) <= 1


@pytest.mark.parametrize("shape", [(128, 160), (300, 500), (611, 402), (100, 90)])
def test_to_frame_undoes_to_tensor(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = (127 + 60 * np.sin(y / shape[0] * 5) + 60 * np.cos(x / shape[1] * 4)).astype(np.uint8)
    back = to_frame(to_tensor(smooth, SPEC)[0], shape, SPEC)
    assert back.shape == shape
    assert back.dtype == np.float32
    assert np.abs((back + 1) * 127.5 - smooth).mean() < 1.0


def test_same_size_is_exact():
    frame = ramp(128, 160)
    back = to_frame(to_tensor(frame, SPEC)[0], (128, 160), SPEC)
    np.testing.assert_array_equal(np.round((back + 1) * 127.5).astype(np.uint8), frame)


@pytest.mark.parametrize(
    ("shape", "digest"),
    [
        ((400, 500), "db14fa6fafafd26d"),
        ((70, 90), "ff37c0af2465d392"),
    ],
)
def test_golden_tensor(shape, digest):
    tensor = to_tensor(ramp(*shape), SPEC)
    as_bytes = ((tensor + 1) * 127.5).round().to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(as_bytes).hexdigest()[:16] == digest


def test_small_frame_is_refused_with_its_size():
    with pytest.raises(FrameTooSmall) as caught:
        to_tensor(np.zeros((63, 500), np.uint8), SPEC)
    assert (caught.value.facts["height"], caught.value.facts["min_side"]) == (63, 64)
    assert str(caught.value).startswith("500 x 63 pixels, at least 64 on each side are needed: ")


@pytest.mark.parametrize("frame", [np.zeros((99, 99, 3), np.uint8), np.zeros((99, 99), np.float32)])
def test_only_grey_bytes_are_frames(frame):
    with pytest.raises(FrameInvalid):
        to_tensor(frame, SPEC)


def test_map_of_another_size_is_refused():
    with pytest.raises(FrameInvalid):
        to_frame(np.zeros((64, 64), np.float32), (100, 100), SPEC)


def test_spec_survives_json():
    assert PreprocessSpec.from_json(SPEC.to_json()) == SPEC


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hight": 1}, 'unknown key "hight"'),
        ({"height": 100}, "multiple of 16"),
        ({"height": 128.0}, "preprocess.height must be int"),
        ({"min_side": True}, "preprocess.min_side must be int"),
        ({"pad_value": 7}, "pad_value"),
    ],
)
def test_spec_is_strict(change, words):
    with pytest.raises(SpecInvalid, match=words):
        PreprocessSpec.from_json({**SPEC.to_json(), **change})
