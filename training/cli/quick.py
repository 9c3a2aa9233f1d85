"""`emode-train quick`: everything in one call."""

from training.cli.app import Config, Out, Processes, Threads, app, find_config
from training.cli.export import run_export
from training.cli.fit import run_fit
from training.cli.simulate import fill
from training.simulator.simulate import TEST_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS


@app.command()
def quick(
    out: Out,
    config: Config = "quick",
    threads: Threads = None,
    processes: Processes = None,
) -> None:
    """Do everything: simulate, fit, evaluate and export a bundle to OUT/bundle. Resumes."""
    settings = find_config(config)
    sizes, pairs = settings.simulation, out / "pairs"
    for name, seeds, n in (
        ("training", TRAINING_SEEDS, sizes.training_pairs),
        ("validation", VALIDATION_SEEDS, sizes.validation_pairs),
        ("test", TEST_SEEDS, sizes.test_pairs),
    ):
        fill(pairs / name, seeds[:n], processes)
    run_fit(settings, [pairs / "training"], [pairs / "validation"], out, threads=threads)
    run_export(out, pairs / "test", pairs / "training", out / "bundle", replace_it=True)
