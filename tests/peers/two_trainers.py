"""One of two training processes; torchrun starts both. Arguments: folder, step to stop after."""

import sys
from pathlib import Path

import torch

from training.config import TrainingConfig
from training.fitting.fit import fit
from training.fitting.parallel import joined
from training.pairs.samples import Samples

folder, stop = Path(sys.argv[1]), int(sys.argv[2])
config = TrainingConfig.model_validate_json((folder / "config.json").read_text())
samples = Samples(**torch.load(folder / "samples.pt"))
with joined("cpu") as world:
    trainer = fit(config, samples, samples, folder / "run", world=world, stop_after=stop)
    torch.save(trainer.generator.state_dict(), folder / f"weights-{world.rank}.pt")
