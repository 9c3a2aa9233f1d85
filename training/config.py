"""The training configuration: one YAML file, strict, that a bundle's manifest repeats in full."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import ModelError
from model.generator import GeneratorSpec
from model.preprocess import PreprocessSpec
from training.errors import ConfigInvalid

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]

CONFIGS = Path(__file__).parent / "configs"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulationConfig(_Strict):
    """How many pairs `quick` simulates; seeds start at the first of each disjoint range."""

    training_pairs: Positive
    validation_pairs: Positive
    test_pairs: Positive


class GeneratorConfig(_Strict):
    """The network; see model.generator.GeneratorSpec."""

    channels: tuple[int, int, int, int]
    dim: Positive
    layers: int
    heads: Positive
    mlp_ratio: float = 3.0
    colormap: str = "emode-rainbow"
    colormap_version: int = 1
    alpha: float = 0.5
    colour_mode: Literal["rendered", "literal"] = "rendered"


class PreprocessConfig(_Strict):
    """The input size; see model.preprocess.PreprocessSpec."""

    height: Positive
    width: Positive
    min_side: Positive = 64
    pad_value: float = -1.0


class LossConfig(_Strict):
    """Weights of the losses."""

    strain_l1: Weight = 100.0
    colour_l1: Weight = 50.0
    ncc: Weight = 5.0
    gradient: Weight = 50.0
    adversarial: Weight = 1.0
    lesion: float = 3.0
    """Weight of lesion pixels in L1; others weigh 1."""


class TrainingConfig(_Strict):
    """One run of `fit`."""

    name: str
    version: str
    seed: int
    precision: Literal["fp32", "bf16"] = "fp32"
    epochs: Positive
    warmup_epochs: int
    """Epochs without the discriminators: they would only learn to tell blur from sharp."""
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    discriminator_learning_rate: Annotated[float, Field(gt=0)]
    ema_decay: Annotated[float, Field(gt=0, lt=1)]
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    discriminator_features: Positive
    generator: GeneratorConfig
    preprocess: PreprocessConfig
    losses: LossConfig = LossConfig()
    simulation: SimulationConfig

    def generator_spec(self) -> GeneratorSpec:
        return GeneratorSpec(**self.generator.model_dump())

    def preprocess_spec(self) -> PreprocessSpec:
        return PreprocessSpec(**self.preprocess.model_dump())


def read_config(path: Path) -> TrainingConfig:
    """Read a YAML configuration; ConfigInvalid lists every problem with its path."""
    try:
        config = TrainingConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        config.generator_spec()
        config.preprocess_spec()
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read ({error.strerror})", path=path) from error
    except yaml.YAMLError as error:
        raise ConfigInvalid(f"{path} is not YAML ({error})", path=path) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigInvalid(f"{path}: {problems}", path=path) from error
    except ModelError as error:
        raise ConfigInvalid(f"{path}: {error}", path=path) from error
    return config
