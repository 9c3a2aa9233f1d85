"""What the commands share: the program, its options, and how folders and configurations are found."""

from pathlib import Path
from typing import Annotated

import cv2
import torch
import typer
from rich.console import Console

from training.config import CONFIGS, TrainingConfig, read_config
from training.errors import ConfigInvalid

console = Console(stderr=True)
app = typer.Typer(
    help="Train the generator of Emode. Start with: emode-train quick --out runs/first",
    epilog="Exit status: 0 all went well; 2 something is wrong with the arguments, files or configuration.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

Out = Annotated[
    Path, typer.Option("--out", help="Folder to write to; a second call goes on where the first ended.")
]
Config = Annotated[
    str, typer.Option("--config", help='A YAML file, or the name of one that ships, like "small".')
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all cores if not given.")]
Processes = Annotated[int | None, typer.Option(help="Processes; all cores if not given.")]


def find_config(name: str) -> TrainingConfig:
    shipped = CONFIGS / f"{name}.yaml"
    path = shipped if shipped.exists() else Path(name)
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise ConfigInvalid(f'"{name}" is neither a file nor one of {known}')
    return read_config(path)


def use_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
