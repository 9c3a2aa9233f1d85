"""Which pairs, at which size, come at which step: pure arithmetic, so that resuming needs only a number."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.config import PhaseConfig
from training.errors import TooFewPairs


@dataclass(frozen=True)
class Position:
    """One step's place in the run."""

    epoch: int
    index: int
    """Step within the epoch."""
    phase: PhaseConfig
    last_of_epoch: bool
    progress: float
    """Share of all pairs seen before this step, 0 to 1: what learning rates follow."""
    ramp: float
    """Weight of the discriminators' opinion: rises from 0 to 1 over the first tenth of their steps."""


class Schedule:
    """The steps of a run over `n` pairs; several processes share each step's pairs."""

    def __init__(self, phases: Sequence[PhaseConfig], n: int, processes: int = 1) -> None:
        """Raises TooFewPairs if a phase's batch holds more pairs than there are."""
        self._epochs: list[tuple[PhaseConfig, int, int]] = []
        """(phase, first step, steps) of each epoch."""
        first = 0
        for phase in phases:
            steps = int(n * phase.share) // (phase.batch_size * processes)
            if steps < 1:
                have = f"{phase.share:.0%} of {n} pairs"
                raise TooFewPairs(f"{have} for training in batches of {phase.batch_size} x {processes}")
            for _ in range(phase.epochs):
                self._epochs.append((phase, first, steps))
                first += steps
        self.total = first
        judged = [(start, start + steps) for phase, start, steps in self._epochs if phase.adversarial]
        self._judged_from = judged[0][0] if judged else first
        self._ramp_steps = max(1, sum(end - start for start, end in judged) // 10)

    def at(self, step: int) -> Position:
        """Where a step lies; steps count from 0."""
        epoch = next(i for i, (_, start, steps) in enumerate(self._epochs) if step < start + steps)
        phase, start, steps = self._epochs[epoch]
        ramp = min(1.0, (step - self._judged_from) / self._ramp_steps) if phase.adversarial else 0.0
        progress = (epoch + (step - start) / steps) / len(self._epochs)
        return Position(epoch, step - start, phase, step == start + steps - 1, progress, max(0.0, ramp))

    def steps_of(self, epoch: int) -> int:
        """How many steps an epoch has."""
        return self._epochs[epoch][2]
