"""Entry point of the `emode-train` script."""

# Imported for their commands, in the order in which help lists them.
from model.errors import ModelError
from training.cli import (  # noqa: F401
    baselines,
    compare,
    evaluate,
    export,
    fit,
    prepare,
    quick,
    simulate,
    speed,
    trust,
)
from training.cli.app import app, console
from training.errors import TrainingError


def main() -> None:
    """Entry point of the `emode-train` script."""
    try:
        app(standalone_mode=True)
    except (TrainingError, ModelError) as error:
        console.print(f"[red]emode-train:[/red] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
