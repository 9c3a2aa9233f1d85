"""What a network was trained on, in words that can be published: no paths, no patients."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.pairs.folder import open_folder


@dataclass(frozen=True)
class DataDescription:
    """One folder of pairs."""

    maker: str
    maker_version: int
    simulated: bool
    """The strain was computed, not measured."""
    pairs: int
    first: str
    """Key of the first pair: its seed, where it is simulated."""
    last: str

    @classmethod
    def of(cls, root: Path) -> "DataDescription":
        """Describe a folder; raises what `open_folder` raises."""
        folder = open_folder(root)
        keys = [file.stem.removeprefix("pair-") for file in folder.files] or [""]
        maker = folder.maker
        return cls(maker.name, maker.version, maker.simulated, len(folder), keys[0], keys[-1])


@dataclass(frozen=True)
class Provenance:
    """Everything that weights come from besides configuration and code."""

    training: tuple[DataDescription, ...] = ()
    validation: tuple[DataDescription, ...] = ()
    start: str = ""
    """Bundle that training began with; empty if it began with random weights."""

    @classmethod
    def of(cls, training: Sequence[Path], validation: Sequence[Path], start: str = "") -> "Provenance":
        described = [tuple(DataDescription.of(root) for root in roots) for roots in (training, validation)]
        return cls(described[0], described[1], start)

    @property
    def simulated(self) -> bool:
        """Whether any strain was computed; what is not known counts as computed."""
        return not self.training or any(data.simulated for data in self.training)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Provenance":
        described = [
            tuple(DataDescription(**one) for one in data[name]) for name in ("training", "validation")
        ]
        return cls(described[0], described[1], data["start"])
