"""The network's shape, size and arithmetic."""

import numpy as np
import pytest
import torch

from model.colormap import get_colormap, overlay
from model.errors import SizeUnsupported, SpecInvalid
from model.generator import RESIDUAL_LIMIT, SPREAD_FLOOR, Generator, GeneratorSpec, count_parameters

TINY = GeneratorSpec(channels=(8, 8, 16, 16), dim=32, layers=1, heads=2)
HALF = GeneratorSpec(channels=(8, 16, 16), dim=32, layers=1, heads=2, unshuffle=2, uncertainty=True)
QUARTER = GeneratorSpec(channels=(16, 16), dim=32, layers=1, heads=2, unshuffle=4, uncertainty=True)


@pytest.fixture(scope="module")
def tiny() -> Generator:
    torch.manual_seed(0)
    return Generator(TINY).eval()


def test_size_m_is_the_recipe():
    parameters = count_parameters(Generator(GeneratorSpec()))
    assert 5.9e6 < parameters < 6.2e6  # 6.05 million, 12.1 MB as float16
    assert parameters <= 8_000_000


@pytest.mark.parametrize("spec", [TINY, HALF, QUARTER], ids=["full", "half", "quarter"])
@pytest.mark.parametrize("size", [(16, 16), (128, 160), (48, 208), (176, 32)])
def test_any_multiple_of_sixteen(spec, size):
    with torch.inference_mode():
        out = Generator(spec)(torch.rand(2, 1, *size) * 2 - 1)
    assert out.strain.shape == (2, 1, *size)
    assert out.colour.shape == (2, 3, *size)
    for part in (out.strain, out.colour):
        assert 0.0 <= float(part.min()) <= float(part.max()) <= 1.0
    assert float(out.residual.abs().max()) <= RESIDUAL_LIMIT


@pytest.mark.parametrize("spec", [HALF, QUARTER], ids=["half", "quarter"])
def test_uncertainty_is_positive_and_at_full_size(spec):
    with torch.inference_mode():
        out = Generator(spec)(torch.rand(2, 1, 32, 64) * 2 - 1)
    assert out.spread.shape == (2, 1, 32, 64)
    assert float(out.spread.min()) >= SPREAD_FLOOR


def test_without_uncertainty_nothing_is_claimed(tiny):
    with torch.inference_mode():
        assert bool(tiny(torch.zeros(1, 1, 32, 32)).spread.isnan().all())


@pytest.mark.parametrize("spec", [TINY, HALF, QUARTER], ids=["full", "half", "quarter"])
def test_every_weight_learns(spec):
    network = Generator(spec)
    torch.nn.init.normal_(network.colour_head[-1].weight)
    out = network(torch.rand(2, 1, 32, 32) * 2 - 1)
    parts = [out.strain, out.colour] + [out.spread] * spec.uncertainty
    sum(part.square().sum() for part in parts).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert idle == []


def test_other_sizes_are_refused(tiny):
    with pytest.raises(SizeUnsupported, match="100 x 96"):
        tiny(torch.zeros(1, 1, 96, 100))


def test_colour_starts_as_the_rendered_overlay(tiny):
    x = torch.rand(1, 1, 32, 48) * 2 - 1
    with torch.inference_mode():
        out = tiny(x)
    bmode = ((x[0, 0] + 1) * 127.5).round().byte().numpy()
    colormap = get_colormap(TINY.colormap, TINY.colormap_version)
    drawn = overlay(out.strain[0, 0].numpy(), bmode, colormap, TINY.alpha)
    assert np.abs(out.colour[0].permute(1, 2, 0).numpy() * 255 - drawn).max() < 3.0


def test_colour_teaches_strain(tiny):
    strain = torch.full((1, 1, 16, 16), 0.4, requires_grad=True)
    tiny.blend(strain, torch.zeros(1, 1, 16, 16))[0, 0].sum().backward()
    assert strain.grad is not None
    assert torch.isfinite(strain.grad).all()
    assert tiny.blend(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))[0, :, 0, 0].tolist() == [0.5, 0, 0]


def test_literal_mode_has_free_colours():
    network = Generator(
        GeneratorSpec(channels=(8, 8, 16, 16), dim=32, layers=1, heads=2, colour_mode="literal")
    )
    out = network(torch.zeros(1, 1, 32, 32))
    assert out.colour.shape == (1, 3, 32, 32)
    assert float(out.residual.detach().abs().max()) == 0.0


def test_spec_survives_json():
    assert GeneratorSpec.from_json(TINY.to_json()) == TINY


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chanels": []}, 'unknown key "chanels"'),
        ({"channels": [8, 8, 16]}, "must be 4 multiples of 4 with unshuffle 1"),
        ({"unshuffle": 2}, "must be 3 multiples of 4 with unshuffle 2"),
        ({"unshuffle": 3}, "must be 1, 2 or 4"),
        ({"heads": 3}, "not a multiple of heads"),
        ({"alpha": 0.0}, "alpha"),
        ({"colour_mode": "rgb"}, "rendered, literal"),
    ],
)
def test_spec_is_strict(change, words):
    with pytest.raises(SpecInvalid, match=words):
        GeneratorSpec.from_json({**TINY.to_json(), **change})
