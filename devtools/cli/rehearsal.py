"""The `rehearsal` verb: the real worker on a full-size model with random weights."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.flags import between
from worker.cli.output import note_console, print_json, result_console
from worker.client.errors import CommandError

if TYPE_CHECKING:
    from devtools.rehearsal.play import Drawn

MODEL = Path("out/full-model")
OUT = Path("out/rehearsal")
LIMIT_GB = 24.0
JOB_TIMEOUT_S = 1800.0


def rehearsal(
    model: Annotated[
        Path, typer.Option(help="Folder with base/ and refiner/; `models full` fills it if it is empty.")
    ] = MODEL,
    out: Annotated[Path, typer.Option(help="Folder for the LoRA and the worker's log.")] = OUT,
    side: Annotated[int, typer.Option(metavar="PX", callback=between(64, 2048), help="Side of the pictures.")] = 512,
    steps: Annotated[int, typer.Option(metavar="N", callback=between(1, 500), help="Steps of each picture.")] = 5,
    dtype: Annotated[str, typer.Option(help="DTYPE of the worker.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="DEVICE of the worker.")] = "cpu",
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Draw the plain picture once more by a worker with this setting; repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per picture.")] = False,
) -> None:
    """Draw a picture plain, with a LoRA, and with LoRA and refiner, by the real worker on a full-size SDXL.

    Prints seconds, peak memory and the hash of each picture's pixels. Exit code 1 if the worker needed more than 24 GB.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    others = [_setting(text) for text in against or ()]
    console = note_console()
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - started:6.1f} s  {text}")

    with console.status("importing torch and diffusers"):
        from devtools.demo.stage import forget_real_services
        from devtools.models.full import is_whole, write_full
        from devtools.rehearsal.pictures import requests, write_lora
        from devtools.rehearsal.play import play
    forget_real_services()
    if not is_whole(model):
        say(f"writing a full-size SDXL with random weights to {model}: 11 GB")
        write_full(model)
    loras = out / "loras"
    write_lora(model / "base", loras)
    settings = {
        "SDXL_MODEL_ID": str(model / "base"),
        "SDXL_REFINER_ID": str(model / "refiner"),
        "SDXL_LORA_PATH": str(loras),
        "DEVICE": device,
        "DTYPE": dtype,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    unchanged: dict[str, str] = {}
    runs = [(unchanged, requests(side_px=side, steps=steps))]
    runs += [
        ({name: value}, requests(side_px=side, steps=steps, plain_only=True, prefix=f"{name.lower()}-"))
        for name, value in others
    ]
    peaks = []
    for changed, wanted in runs:
        name = ", ".join(f"{key}={value}" for key, value in changed.items()) or "default settings"
        for drawn in play(wanted, settings | changed, out, say, timeout_s=JOB_TIMEOUT_S):
            peaks.append(drawn.peak_gb or 0.0)
            if as_json:
                print_json({"worker": name} | asdict(drawn))
            else:
                result_console().print(_line(name, drawn), soft_wrap=True)
    if max(peaks) > LIMIT_GB:
        console.print(f"the worker needed {max(peaks):.1f} GB, more than {LIMIT_GB:g}", style="red")
        raise typer.Exit(1)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise CommandError(f"--against {text}: it must be NAME=VALUE")
    return name.upper(), value


def _line(worker: str, drawn: Drawn) -> str:
    cpu = "" if drawn.cpu_seconds is None else f" ({drawn.cpu_seconds:.1f} s of processor time)"
    peak = "" if drawn.peak_gb is None else f", peak memory {drawn.peak_gb:.1f} GB"
    return (
        f"{drawn.job_id}, {worker}: {drawn.seconds:.1f} s{cpu} for {drawn.steps} steps{peak},"
        f" pixels sha256 {drawn.pixel_sha256}"
    )
