"""`emode-train speed`: what an image costs on this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from model.bundle import read_bundle
from training.cli.app import Threads, app, use_threads
from training.scoring.speed import Timing, measure_speed


@app.command()
def speed(
    bundle: Annotated[Path, typer.Option(help="Bundle folder.")],
    side: Annotated[int, typer.Option(min=64, help="Pixels on each side, a multiple of 16.")] = 256,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, or auto: what the node would take here.")
    ] = "auto",
    runs: Annotated[int, typer.Option(min=4, help="How often each is measured.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    threads: Threads = None,
) -> None:
    """Measure milliseconds for an image, the network alone and all of it. Let nothing else run meanwhile."""
    use_threads(threads)
    found = measure_speed(read_bundle(bundle), side=side, precision=_precision(precision), runs=runs)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    place = f"{found.device}, {found.precision}, {found.threads} threads, {found.side} x {found.side} pixels"
    Console().print(f"{place}; median of {runs} (middle half of them)")
    for name, timing in (("network alone", found.network), ("frame to elastogram", found.whole)):
        Console().print(f"{name:20} {_words(timing)}")


def _words(timing: Timing) -> str:
    return f"{timing.median:7.1f} ms  ({timing.low:.1f} to {timing.high:.1f})"


def _precision(name: str) -> Literal["auto", "fp32", "bf16"]:
    if name == "fp32":
        return "fp32"
    if name == "bf16":
        return "bf16"
    if name == "auto":
        return "auto"
    raise typer.BadParameter(f'"{name}" is none of auto, fp32, bf16')
