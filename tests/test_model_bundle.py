"""The bundle: whole, unchanged, or refused."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import inference
from model.bundle import Bundle, SelfTest, pack_weights, read_bundle, write_bundle
from model.errors import BundleInvalid, DeviceUnavailable, SelfTestFailed, SpecInvalid
from model.generator import Generator, GeneratorSpec
from model.inference import Inference
from model.manifest import manifest_digest, sha256
from model.predict import Predictor
from model.preprocess import PreprocessSpec, to_frame, to_tensor


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.manual_seed(0)
    spec = GeneratorSpec(channels=(8, 8, 16, 16), dim=32, layers=1, heads=2)
    network, preprocess = Generator(spec), PreprocessSpec(height=64, width=80)
    weights = {name: value.half() for name, value in network.state_dict().items()}
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    frame = np.random.default_rng(0).integers(0, 256, (90, 130), dtype=np.uint8)
    result = Inference(network, preprocess).predict([frame])[0]
    return Bundle(
        name="tiny-test",
        version="1.2.3",
        created_at="2024-06-03T00:00:00+00:00",
        licence="Apache-2.0",
        generator=spec,
        preprocess=preprocess,
        training={"simulated": True},
        metrics={"ncc": 0.0},
        weights=weights,
        weights_sha256=sha256(pack_weights(weights)),
        self_test=SelfTest(frame, result.strain, result.colour),
        card="# A test bundle\n",
    )


@pytest.fixture
def folder(bundle, tmp_path) -> Path:
    write_bundle(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def edit_manifest(folder: Path, *, sign: bool, **changes: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    if sign:
        manifest["manifest_sha256"] = manifest_digest(manifest)
    path.write_text(json.dumps(manifest))


def test_written_bundle_is_read_back_alike(bundle, folder):
    again = read_bundle(folder)
    assert again.id == "tiny-test-1.2.3"
    assert (again.generator, again.preprocess, again.card) == (
        bundle.generator,
        bundle.preprocess,
        bundle.card,
    )
    assert again.weights_sha256 == bundle.weights_sha256
    assert all(torch.equal(again.weights[name], value) for name, value in bundle.weights.items())
    assert sorted(path.name for path in folder.parent.iterdir()) == ["bundle"]  # no temporary folder left
    Predictor(again, device="cpu")


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "selftest.npz", "card.md"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_each_damaged_file_is_noticed_and_named(folder, name, damage):
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-2])
    else:
        path.unlink()
    with pytest.raises(BundleInvalid, match=name):
        read_bundle(folder)


def test_edited_manifest_is_noticed(folder):
    edit_manifest(folder, sign=False, licence="MIT")
    with pytest.raises(BundleInvalid, match="its own digest"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": 1}, "unknown keys: colour"),
        ({"format": "zip"}, "not an emode-bundle manifest"),
        ({"format_version": 3}, "format version 3, this program reads 1 and 2"),
        ({"version": "1.2"}, "three numbers"),
        ({"generator": {"depth": 3}}, 'generator: unknown key "depth"'),
        ({"colormap": {"name": "emode-rainbow", "version": 1, "sha256": "0"}}, "not the table"),
        ({"weights_sha256": "0"}, "weights_sha256 and files disagree"),
    ],
)
def test_manifest_is_strict(folder, changes, words):
    edit_manifest(folder, sign=True, **changes)
    with pytest.raises(BundleInvalid, match=words):
        read_bundle(folder)


def test_weights_of_another_network_are_refused(bundle, tmp_path):
    other = replace(bundle, generator=replace(bundle.generator, dim=64))
    write_bundle(other, tmp_path / "other")
    with pytest.raises(BundleInvalid, match="does not fit the generator"):
        Predictor(read_bundle(tmp_path / "other"), device="cpu")


def test_existing_bundle_is_replaced_only_when_asked(bundle, folder):
    with pytest.raises(BundleInvalid, match="exists"):
        write_bundle(bundle, folder)
    write_bundle(replace(bundle, version="2.0.0"), folder, replace=True)
    assert read_bundle(folder).version == "2.0.0"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["bundle"]


def test_same_weights_same_bytes(bundle):
    assert pack_weights(bundle.weights) == pack_weights(dict(reversed(list(bundle.weights.items()))))


def test_self_test_stops_a_model_that_answers_otherwise(bundle):
    wrong = SelfTest(bundle.self_test.frame, 1 - bundle.self_test.strain, bundle.self_test.colour)
    with pytest.raises(SelfTestFailed, match=r"strain is off by 0\.\d+ \(allowed 0.01\)"):
        Predictor(replace(bundle, self_test=wrong), device="cpu")
    broken = {name: torch.full_like(value, torch.nan) for name, value in bundle.weights.items()}
    with pytest.raises(SelfTestFailed, match="not numbers"):
        Predictor(replace(bundle, weights=broken), device="cpu")


def test_frame_alone_and_in_any_batch_is_bit_identical(bundle):
    predictor = Predictor(bundle, device="cpu")
    rng = np.random.default_rng(3)
    shapes = [(90, 130), (300, 200), (64, 64), (128, 500)]
    frames = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    together = predictor.predict(frames)
    for frame, joint, reverse in zip(
        frames, together, reversed(predictor.predict(frames[::-1])), strict=True
    ):
        alone = predictor.predict([frame])[0]
        assert joint.strain.shape == frame.shape
        assert joint.colour.shape == (*frame.shape, 3)
        for other in (joint, reverse):
            np.testing.assert_array_equal(alone.strain, other.strain)
            np.testing.assert_array_equal(alone.colour, other.colour)
        assert alone.agreement < 0.05
    assert predictor.predict([]) == []


def test_bf16_stays_near(bundle):
    frame = bundle.self_test.frame
    exact, coarse = (
        Predictor(bundle, device="cpu", precision=p).predict([frame])[0] for p in ("fp32", "bf16")
    )
    assert np.abs(exact.strain - coarse.strain).max() < 0.02


def test_device_is_given_or_refused(bundle):
    if torch.cuda.is_available():
        assert Predictor(bundle).device == "cuda"
    else:
        assert Predictor(bundle).device == "cpu"
        with pytest.raises(DeviceUnavailable, match="no CUDA device"):
            Predictor(bundle, device="cuda")
    with pytest.raises(DeviceUnavailable, match="tpu"):
        Predictor(bundle, device="tpu")  # type: ignore[arg-type]
    with pytest.raises(SpecInvalid, match="int8"):
        Predictor(bundle, precision="int8")  # type: ignore[arg-type]


def test_weights_rounded_once_give_the_bits_of_weights_rounded_at_every_pass(bundle):
    frame = bundle.self_test.frame
    made = Predictor(bundle, device="cpu", precision="bf16").predict([frame])[0]
    network = bundle.build_generator().eval().to(memory_format=torch.channels_last)
    batch = to_tensor(frame, bundle.preprocess).unsqueeze(0).to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        strain = network(batch).strain
    assert np.array_equal(made.strain, to_frame(strain[0, 0], frame.shape, bundle.preprocess))


def test_passes_that_overlap_and_threads_that_compose_change_no_result(bundle, monkeypatch):
    """What a GPU has on, tried on this CPU: batches, one of them ahead, composed side by side."""
    rng = np.random.default_rng(3)
    frames = [rng.integers(0, 256, (80 + k, 130 - k), dtype=np.uint8) for k in range(7)]
    alone = Predictor(bundle, device="cpu", precision="fp32").predict(frames)
    monkeypatch.setitem(inference.BATCH_SIZE, "cpu", 3)
    monkeypatch.setitem(inference._AHEAD, "cpu", 1)
    predictor = Predictor(bundle, device="cpu", precision="fp32")
    with ThreadPoolExecutor(2) as composers:
        monkeypatch.setattr(predictor._inference, "_composers", composers)
        together = predictor.predict(frames)
    assert len(together) == len(frames)
    for one, other in zip(alone, together, strict=True):
        assert one.strain.shape == other.strain.shape
        assert np.abs(one.strain - other.strain).max() < 1e-4
        # One entry of the table, at half its strength.
        assert np.abs(one.colour.astype(int) - other.colour.astype(int)).max() <= 2


def test_threads_that_predict_at_the_same_time_change_no_bit(bundle):
    """As the worker's helpers do on a CPU."""
    rng = np.random.default_rng(5)
    frames = [rng.integers(0, 256, (90, 130), dtype=np.uint8) for _ in range(12)]
    predictor = Predictor(bundle, device="cpu")
    alone = [predictor.predict([frame])[0] for frame in frames]
    with ThreadPoolExecutor(3) as threads:
        beside = list(threads.map(lambda frame: predictor.predict([frame])[0], frames))
    for one, other in zip(alone, beside, strict=True):
        assert np.array_equal(one.strain, other.strain)
        assert np.array_equal(one.colour, other.colour)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_agrees_with_the_cpu(bundle):
    rng = np.random.default_rng(3)
    frames = [rng.integers(0, 256, (90, 130), dtype=np.uint8) for _ in range(40)]
    here, there = (Predictor(bundle, device=d, precision="fp32").predict(frames) for d in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        assert np.abs(one.strain - other.strain).max() < 1e-3
