"""The training configuration: one YAML file, strict, that a bundle's manifest repeats in full."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import ModelError
from model.generator import GeneratorSpec
from model.preprocess import PreprocessSpec
from training.errors import ConfigInvalid

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]

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

    channels: tuple[Positive, ...]
    dim: Positive
    layers: Annotated[int, Field(ge=0)]
    heads: Positive
    mlp_ratio: float = 3.0
    unshuffle: int = 1
    uncertainty: bool = False
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


class PhaseConfig(_Strict):
    """Some epochs trained alike; a run is a list of them."""

    epochs: Positive
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the pairs that an epoch takes, drawn anew for each."""
    batch_size: Positive
    """For each process, where several train together."""
    shrink: Literal[1, 2, 4] = 1
    """Pictures are shrunk by this factor: coarse epochs first cost a quarter and teach most."""
    adversarial: bool = True
    """Whether the discriminators take part; early on they would only learn to tell blur from sharp."""


class JudgesConfig(_Strict):
    """The discriminators."""

    features: Positive
    scales: Literal[1, 2] = 1
    """2 adds judges of the picture at half size, as in pix2pixHD."""
    lesion: bool = True
    """A third judge looks at the lesion's surroundings alone, as in V-EUS (10.1038/s41467-023-36102-1)."""
    r1: Weight = 1.0
    """Weight of the gradient penalty on true pictures (10.48550/arXiv.1801.04406)."""
    r1_every: Positive = 16
    augment: bool = True
    """Shift and cut holes alike into true and made pictures (10.48550/arXiv.2006.10738)."""


class LossConfig(_Strict):
    """Weights of the losses."""

    strain_l1: Weight = 100.0
    colour_l1: Weight = 50.0
    ncc: Weight = 5.0
    lesion_ncc: Weight = 0.0
    """NCC inside the lesion box alone."""
    strain_ratio: Weight = 0.0
    """Squared error of the logarithm of the strain ratio, against the ring and against tissue beside the
    lesion. Absolute errors of pixels ask for the likelier of two stiffnesses, and large lesions are the
    median of their own frame; this asks for the mean of what may be, relative to what lies around."""
    lesion_look: Weight = 0.0
    """How well the lesion, and whether it looks malignant, can be read from the features of both heads."""
    gradient: Weight = 50.0
    spread: Weight = 1.0
    """How far off the network expects to be, where it says so."""
    inversion: Weight = 0.0
    """Strain read back from the colour against the strain; matters for literal colour."""
    adversarial: Weight = 1.0
    feature_matching: Weight = 0.0
    lesion: float = 3.0
    """Weight of lesion pixels in L1; others weigh 1."""


class TrainingConfig(_Strict):
    """One run of `fit`."""

    name: str
    version: str
    seed: int
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    """Compile the networks first (torch.compile): pays on a GPU in long runs."""
    phases: Annotated[tuple[PhaseConfig, ...], Field(min_length=1)]
    learning_rate: Rate
    discriminator_learning_rate: Rate
    ema_decay: Annotated[float, Field(gt=0, lt=1)]
    gradient_clip: Rate = 1.0
    generator: GeneratorConfig
    preprocess: PreprocessConfig
    judges: JudgesConfig
    losses: LossConfig = LossConfig()
    simulation: SimulationConfig

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for phase in self.phases:
            for side in (self.preprocess.height, self.preprocess.width):
                if side % (16 * phase.shrink):
                    raise ValueError(f"side {side} shrunk by {phase.shrink} is no multiple of 16")
        return self

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

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
