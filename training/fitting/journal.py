"""What a run says of itself: a CSV row each epoch, and TensorBoard events where that is installed."""

import csv
from pathlib import Path
from typing import Any

from training.fitting.step import Losses

LOG = "log.csv"
COLUMNS = (
    "epoch", "step", "seconds", "loss", "strain_l1", "colour_l1", "ncc", "lesion_ncc", "strain_ratio",
    "lesion_look", "gradient", "spread", "inversion", "adversarial", "feature_matching", "discriminator",
    "r1", "validation_ncc", "validation_lesion_ncc", "validation_error", "validation_expected_error",
)  # fmt: skip


class Journal:
    """Writes the log of one run; rows after the step it goes on from are dropped, they will come again."""

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / LOG
        self._trim(step)
        self._events = _events(folder / "events", step)

    def epoch(self, epoch: int, step: int, seconds: float, values: Losses) -> None:
        """Write the row of an epoch that has ended."""
        new = not self._path.exists()
        row = {"epoch": epoch, "step": step, "seconds": seconds, **values}
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            if new:
                writer.writeheader()
            writer.writerow({k: v if isinstance(v, int) else f"{v:.5g}" for k, v in row.items()})
        self.step(step, values, "epoch")

    def step(self, step: int, values: Losses, group: str = "step") -> None:
        """Note values for TensorBoard alone."""
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Write out what is not on disk yet."""
        if self._events is not None:
            self._events.close()

    def _trim(self, step: int) -> None:
        if not self._path.exists():
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def _events(folder: Path, step: int) -> Any:
    """A TensorBoard writer, or None where TensorBoard is not installed: the CSV says the same."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)
