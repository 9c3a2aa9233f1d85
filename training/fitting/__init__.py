"""The training run: networks, losses, steps, checkpoints."""
