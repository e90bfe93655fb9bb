"""The `submit` verb: send requests given by flags or on standard input."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.flags import GUIDANCE, INT, LONG, YEAR_S, between
from worker.cli.requests import parse_lora, parse_size, request_from_record, utc_now
from worker.cli.submission import Submission, numbered_requests
from worker.client.connection import connect

if TYPE_CHECKING:
    from worker.cli.pictures import Saver
    from worker.settings import Settings

_NEEDED = ("girl_id", "user_id", "prompt")
_IDS, _PICTURE, _SCHEDULING = "Identity", "Picture", "Scheduling"


class LaneName(StrEnum):
    """The names of the three lanes, as values of a flag."""

    urgent = "urgent"
    high = "high"
    normal = "normal"


def submit(
    source: Annotated[
        str | None, typer.Argument(metavar="[-]", help="- reads requests from stdin, one JSON object per line.")
    ] = None,
    girl_id: Annotated[
        str | None, typer.Option(help="Whose picture it is; chooses the profile (required).", rich_help_panel=_IDS)
    ] = None,
    user_id: Annotated[
        int | None,
        typer.Option(callback=between(-LONG, LONG), help="Id of the user who asks (required).", rich_help_panel=_IDS),
    ] = None,
    job_id: Annotated[
        str | None, typer.Option(help="Id of the job (default: a random UUID).", rich_help_panel=_IDS)
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt (required).", rich_help_panel=_PICTURE)] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="Negative prompt (default: none).", rich_help_panel=_PICTURE)
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size in pixels (default 1024x1024).", rich_help_panel=_PICTURE)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            callback=between(-INT, INT), help="Number of denoising steps (default 30).", rich_help_panel=_PICTURE
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            callback=between(-GUIDANCE, GUIDANCE), help="Guidance scale (default 7.5).", rich_help_panel=_PICTURE
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            callback=between(-LONG, LONG), help="Seed (default: derived from the job id).", rich_help_panel=_PICTURE
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Name of a diffusers scheduler (default DPMSolverMultistepScheduler), or of a few-step preset.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:WEIGHT", help="LoRA to apply; may be repeated.", rich_help_panel=_PICTURE),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option("--format", help="Format: jpeg (default), webp or png.", rich_help_panel=_PICTURE),
    ] = None,
    high_quality: Annotated[
        bool, typer.Option("--high-quality", help="Finish the picture with the refiner.", rich_help_panel=_PICTURE)
    ] = False,
    affection: Annotated[
        int | None,
        typer.Option(
            callback=between(-INT, INT), help="Affection level, 0 to 100 (default 0).", rich_help_panel=_PICTURE
        ),
    ] = None,
    nsfw: Annotated[
        int | None,
        typer.Option(callback=between(-INT, INT), help="NSFW level, 0 to 100 (default 0).", rich_help_panel=_PICTURE),
    ] = None,
    priority: Annotated[
        LaneName | None,
        typer.Option(
            "--lane",
            "--priority",
            metavar="LANE",
            help="urgent, high or normal (default normal).",
            rich_help_panel=_SCHEDULING,
        ),
    ] = None,
    expires_in: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            callback=between(0.0, YEAR_S),
            help="Do not make the picture after this time.",
            rich_help_panel=_SCHEDULING,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the jobs end, and print the URLs.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Wait, and save picture and thumbnail of each job in this folder."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            callback=between(0.0, YEAR_S),
            help="With --wait or --save: stop waiting after this time.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Send one request from flags, or many as JSON lines from stdin, and print the job ids.

    Exit code 1: a line is not a valid request, a request was not acknowledged, or
    (with --wait) a job failed or did not end in time.
    """
    given: dict[str, Any] = {
        "girl_id": girl_id,
        "user_id": user_id,
        "job_id": job_id,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "scheduler": scheduler,
        "output_format": output_format,
        "affection_level": affection,
        "nsfw_level": nsfw,
    }
    record = {name: value for name, value in given.items() if value is not None}
    record |= _derived(size, lora or [], expires_in)
    if priority is not None:
        record["priority"] = priority.value
    if high_quality:
        record["high_quality"] = True
    raise typer.Exit(_run(source, record, wait=wait, save=save, timeout_s=timeout, as_json=as_json))


def _derived(size: str | None, loras: list[str], expires_in: float | None) -> dict[str, Any]:
    record: dict[str, Any] = {}
    try:
        if size is not None:
            record["width"], record["height"] = parse_size(size)
        parsed = [parse_lora(text) for text in loras]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if parsed:
        record["loras"] = [{"name": lora.name, "weight": lora.weight} for lora in parsed]
    if expires_in is not None:
        record["expires_at"] = (utc_now() + timedelta(seconds=expires_in)).isoformat()
    return record


def _run(
    source: str | None,
    record: dict[str, Any],
    *,
    wait: bool,
    save: Path | None,
    timeout_s: float | None,
    as_json: bool,
) -> int:
    if source not in (None, "-"):
        raise typer.BadParameter(f"{source!r} is not valid here: only - (standard input) is")
    if source == "-" and record:
        raise typer.BadParameter("flags that describe a request cannot be combined with -")
    missing = [f"--{name.replace('_', '-')}" for name in _NEEDED if name not in record]
    if source is None and missing:
        raise typer.BadParameter(f"missing {', '.join(missing)} (or give - to read JSON lines from stdin)")
    with ExitStack() as stack:
        connection = stack.enter_context(connect())
        saver = None if save is None else _saver(save, connection.settings)
        waits = wait or saver is not None
        submission = stack.enter_context(Submission(connection, wait=waits, as_json=as_json, saver=saver))
        if source == "-":
            submission.send_all(numbered_requests(sys.stdin.buffer))
        else:
            try:
                submission.send(request_from_record(record, now=utc_now()))
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
        return submission.finish(timeout_s)


def _saver(folder: Path, settings: Settings) -> Saver:
    # boto3 takes a while to import.
    from worker.cli.pictures import Saver

    return Saver.from_settings(folder, settings)
