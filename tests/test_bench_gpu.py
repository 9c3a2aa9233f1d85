"""The part of the bench for GPUs, as far as a machine without one can try it."""

import torch

from bench import gpu
from model.bundle import DEFAULT_BUNDLE, read_bundle
from model.predict import Predictor


def test_without_a_gpu_nothing_is_measured_and_nothing_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(gpu.measure(tmp_path, 1)) == []


def test_its_ways_of_measuring_work_on_a_cpu_too(tmp_path):
    bundle = read_bundle(DEFAULT_BUNDLE)
    assert gpu.best_rate(bundle, 32, "fp32", device="cpu", batches=(1, 2)) > 0
    assert gpu.through(tmp_path, Predictor(bundle, device="cpu"), 3) > 0
    assert list((tmp_path / "results").iterdir()) == []
