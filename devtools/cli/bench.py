"""The `bench` verbs: measure scheduling, reproducibility, picture quality and speed on a GPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from devtools.cli.bench_dispatch_trace import dispatch_trace
from devtools.cli.bench_equality import equality
from devtools.cli.bench_fleet import fleet
from devtools.cli.bench_gpu import gpu
from devtools.cli.bench_lora import lora
from devtools.cli.bench_truth import truth
from devtools.cli.bench_worker import worker
from worker.cli.flags import INT, between
from worker.cli.output import note_console, print_json, result_console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Benchmark the engine: scheduling, reproducibility, picture quality, speed on a GPU.",
)
app.command()(equality)
app.command()(truth)
app.command()(lora)
app.command()(fleet)
app.command()(dispatch_trace)
app.command()(gpu)
app.command()(worker)

REPORT = Path("out/bench/schedule.json")
# The rows of a call, as for a picture of 1024² on any card.
SLOTS = 1


@app.command()
def schedule(
    out: Annotated[Path, typer.Option(help="File for the JSON report.")] = REPORT,
    plot: Annotated[Path | None, typer.Option(help="File for a PNG plot of the waits; needs matplotlib.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", callback=between(0, INT), help="Seed of the arrivals.")] = 0,
    jobs: Annotated[
        int,
        typer.Option(metavar="N", callback=between(1, INT), help="Jobs at load 0.8 that run every UNet and VAE call."),
    ] = 200,
    long_jobs: Annotated[
        int,
        typer.Option(
            metavar="N", callback=between(1, INT), help="Jobs at every load that are simulated without those calls."
        ),
    ] = 1500,
    rounds: Annotated[
        int, typer.Option(metavar="N", callback=between(1, INT), help="Measurements of the overhead per step.")
    ] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON report instead of tables.")] = False,
) -> None:
    """Compare four scheduling policies on the same arrivals through the real engine.

    The report also holds the engine's overhead per step compared with diffusers.
    """
    with note_console().status("importing torch and diffusers") as note:
        from devtools.bench.schedule import compare, show
        from devtools.bench.schedule import plot as plots

        plan = compare.Plan(seed=seed, jobs=jobs, long_jobs=long_jobs, rounds=rounds, slots=SLOTS)
        with _toy() as base:
            try:
                result = compare.compare(base, plan, note.update)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
            result.report["trace"] = _story(base, result.report["conditions"]["prices_s"], plan.slots)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result.report, indent=1) + "\n")
    if plot is not None:
        plots.draw(result.waits, f"Waits at load {compare.HEADLINE_LOAD}; dots: 99th percentile", plot)
    if as_json:
        print_json(result.report)
        return
    console = result_console()
    if not console.is_terminal:
        console.width = show.WIDTH
    for table in show.tables(result.report):
        console.print(table, "")
    console.print(show.FINE_PRINT, style="dim")


@app.command()
def trace(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show, step by step, how an urgent job displaces a job of a full batch of normal ones."""
    with note_console().status("importing torch and diffusers"):
        from devtools.bench.schedule.prices import measure_prices

        with _toy() as base:
            prices = measure_prices(base, slots=SLOTS, rounds=1)
            story = _story(base, asdict(prices), SLOTS)
    if as_json:
        print_json(story)
    else:
        print("\n".join(story["lines"]))


def _story(base: Any, prices: dict[str, float], slots: int) -> dict[str, Any]:
    from devtools.bench.schedule.model import Prices
    from devtools.bench.schedule.story import lines, tell

    story = tell(base, Prices(**prices), slots)
    return {
        "lines": lines(story),
        "steps": [{"at": step.at / story.step_s, "jobs": step.names} for step in story.steps],
        "urgent_wait_steps": story.started - story.came,
        "steps_begun_without_it": story.steps_between,
    }


@contextmanager
def _toy() -> Iterator[Any]:
    import torch

    from devtools.models.tiny import write_tiny
    from worker.models.load import load_base

    with tempfile.TemporaryDirectory() as folder:
        write_tiny(Path(folder))
        yield load_base(f"{folder}/base", dtype=torch.float32, device="cpu")
