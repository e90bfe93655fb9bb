"""The `bench gpu` verb: measure the worker's engine on a GPU, beside diffusers and the card's limit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.output import note_console, print_json, result_console
from worker.client.errors import CommandError
from worker.errors import SettingsError
from worker.settings import Settings
from worker.telemetry import logs

if TYPE_CHECKING:
    from devtools.bench.gpu.run import Plan

MODEL = Path("out/full-model")
REPORT = Path("out/bench/gpu.json")
_SIDE_STEP = 8
AGAINST = "unpadded,without LoRA,diffusers,diffusers fast"
KINDS = "base,refiner,1 LoRA,2 LoRAs"


def gpu(
    toy: Annotated[bool, typer.Option("--toy", help="The same on the CPU with a toy model, in moments.")] = False,
    model: Annotated[
        Path, typer.Option(help="Folder with base/ and refiner/; `models full` fills it if it is empty (11 GB).")
    ] = MODEL,
    side: Annotated[
        list[int] | None,
        typer.Option(metavar="PX", min=64, max=2048, help="Side of the pictures (default: 1024 and 512); repeatable."),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=1, max=500, help="Steps of each picture (default: 20 and 30); repeatable."),
    ] = None,
    kinds: Annotated[str, typer.Option(help="What is drawn, separated by commas.")] = KINDS,
    against: Annotated[
        str, typer.Option(help="What the worker is compared with, separated by commas; `none`: with nothing.")
    ] = AGAINST,
    rounds: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Pairs of pictures in each comparison (default: 3; 1 with --toy).", min=1, max=1000
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="Mode or backend of torch.compile for diffusers' fast path (default: max-autotune)."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the worker, such as DTYPE=float16; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="File for the JSON report, written as it grows.")] = REPORT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON report instead of tables.")] = False,
) -> None:
    """Measure the worker's engine at full size: seconds, steps and memory, beside diffusers and the card's limit.

    With random weights: times and memory are those of any SDXL. A part that fails says so in the report. Exit code 2:
    there is no GPU that torch can use.
    """
    # What the worker logs while it loads is not of the report.
    logs.configure("ERROR", "auto")
    console = note_console()
    with console.status("importing torch and diffusers") as note:
        if not toy:
            _require_gpu()
        from devtools.bench.gpu import show
        from devtools.bench.gpu.engine_side import NotDrawn
        from devtools.bench.gpu.run import Bench

        plan = _plan(toy, side, steps, kinds, against, rounds, mode, setting or [])
        out.parent.mkdir(parents=True, exist_ok=True)
        with _folders(toy, model) as (where, loras):
            bench = Bench(
                where,
                loras,
                "cpu" if toy else "cuda",
                plan,
                note.update,
                lambda report: _store(out, report),
            )
            try:
                report = bench.run()
            except NotDrawn as error:
                raise CommandError(f"the first picture cannot be drawn: {error}") from None
    if as_json:
        print_json(report)
        return
    result = result_console()
    result.width = show.WIDTH
    result.print(show.head(report), "", sep="\n")
    for table in show.tables(report, toy=toy):
        result.print(table, "", sep="\n")
    result.print(show.TOY_PRINT if toy else show.FINE_PRINT, style="dim", end="")


def _require_gpu() -> None:
    import torch

    from worker.models.cuda import cuda_trouble

    trouble = cuda_trouble()
    if trouble is not None or not torch.cuda.is_available():
        raise SettingsError(
            f"bench gpu needs a GPU, and {trouble or 'torch sees none here'}; `bench gpu --toy` runs on the CPU"
        )


def _plan(
    toy: bool,
    sides: list[int] | None,
    steps: list[int] | None,
    kinds: str,
    against: str,
    rounds: int | None,
    mode: str | None,
    settings: list[str],
) -> Plan:
    """The plan that the options say. Raises CommandError."""
    from devtools.bench.gpu import run
    from devtools.bench.gpu.cases import KINDS as ALL

    by_name = {kind.name: kind for kind in ALL}
    usual = run.TOY if toy else run.Plan()
    chosen = replace(
        usual,
        kinds=tuple(by_name[name] for name in _named(kinds, by_name, "--kinds")),
        against=() if against == "none" else _named(against, run.AGAINST, "--against"),
        settings=dict(map(_setting, settings)),
        sides=tuple(sides or usual.sides),
        steps=tuple(steps or usual.steps),
        rounds=rounds or usual.rounds,
        mode=mode or usual.mode,
    )
    if any(side % _SIDE_STEP for side in chosen.sides):
        raise CommandError(f"--side: it must be a multiple of {_SIDE_STEP}")
    return chosen


def _named(text: str, known: Collection[str], option: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise CommandError(f"{option}: there is no {name!r}; known: {', '.join(known)}")
    return names


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise CommandError(f"--set {text}: it must be NAME=VALUE")
    if name.lower() not in Settings.model_fields:
        raise CommandError(f"--set {text}: the worker has no setting of that name")
    return name.upper(), value


@contextmanager
def _folders(toy: bool, model: Path) -> Iterator[tuple[Path, Path]]:
    """The model's folder, filled, and one for the LoRAs."""
    from devtools.models.full import is_whole, write_full
    from devtools.models.tiny import write_tiny

    with tempfile.TemporaryDirectory() as folder:
        if toy:
            model = Path(folder) / "toy"
            write_tiny(model)
        elif not is_whole(model):
            if model.exists() and any(model.iterdir()):
                raise CommandError(
                    f"--model {model}: neither empty nor a base and a refiner; `models full` writes it anew"
                )
            note_console().print(f"writing a full-size SDXL with random weights to {model}: 11 GB")
            write_full(model)
        yield model, Path(folder) / "loras"


def _store(out: Path, report: dict[str, object]) -> None:
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
