"""`profiles check` and `profiles preview`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.output import print_json
from worker.client.errors import CommandError
from worker.content.fold import fold
from worker.content.rules import points_at_minor
from worker.errors import RequestRejected
from worker.events.types import GenerationRequest
from worker.intake.admit import Arrival, admit
from worker.job import Job, Lane, Origin
from worker.profiles import Profile, Profiles
from worker.settings import Settings, load_settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Check profiles, or see what one makes of a request."
)


@app.command()
def check(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Default: PROFILES_PATH.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per profile.")] = False,
) -> None:
    """Read every profile as the worker would at its start, and more. Exit code 1: something is wrong with one."""
    settings, profiles = _load(folder)
    problems = []
    for name, profile in profiles:
        found = list(_problems(profile, settings))
        problems += [f"{name}.toml: {problem}" for problem in found]
        if as_json:
            print_json(_object(name, profile) | {"problems": found})
        else:
            print(_line(name, profile))
    if problems:
        raise CommandError("; ".join(problems))


@app.command()
def preview(
    girl_id: Annotated[str, typer.Argument(metavar="GIRL_ID")],
    prompt: Annotated[str, typer.Option(help="The request's own.")],
    negative_prompt: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    affection: Annotated[int, typer.Option(min=0, max=100, help="affection_level, 0 to 100.")] = 0,
    nsfw_level: Annotated[int, typer.Option(min=0, max=100, help="0 to 100.")] = 0,
    folder: Annotated[Path | None, typer.Option("--dir", help="Default: PROFILES_PATH.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print what the worker would draw. Exit code 1: it would refuse the request."""
    settings, _ = _load(folder)
    request = GenerationRequest(
        job_id="preview",
        girl_id=girl_id,
        user_id=0,
        prompt=prompt,
        negative_prompt=negative_prompt,
        affection_level=affection,
        nsfw_level=nsfw_level,
    )
    now = time.time()
    try:
        job = admit(request, Arrival(Origin("preview", 0, 0, 0), Lane.NORMAL, now, {}), settings, now)
    except RequestRejected as error:
        raise CommandError(f"{error.code.value}: {error.message}") from error
    if as_json:
        print_json(_composed(job))
        return
    for key, value in _composed(job).items():
        print(f"{key:<16} {value if isinstance(value, str) else _text(value)}")


def _load(folder: Path | None) -> tuple[Settings, Profiles]:
    """Raises SettingsError: for one of the files or another setting."""
    settings = load_settings() if folder is None else load_settings(profiles_path=folder)
    if settings.profiles is None:
        raise CommandError("which folder? name one, or set PROFILES_PATH")
    return settings, settings.profiles


def _problems(profile: Profile, settings: Settings) -> Iterator[str]:
    """What the worker would start with, and every request, or nearly, would fail by."""
    for key, text in _texts(profile):
        folded = fold(text)
        if points_at_minor(folded):
            yield f"{key}: it points at a minor, so that requests with an nsfw_level above 0 are content_rejected"
        if settings.denied is not None and settings.denied.found_in(folded):
            yield f"{key}: it has a phrase of CONTENT_DENY_PATH"
    if profile.loras and settings.lora_dir is None:
        yield "loras: SDXL_LORA_PATH is not set"
        return
    for index, lora in enumerate(profile.loras):
        assert settings.lora_dir is not None
        if not (settings.lora_dir / f"{lora.name}.safetensors").is_file():
            yield f"loras.{index}.name: {settings.lora_dir} has no {lora.name}.safetensors"


def _texts(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "prompt", profile.prompt
    yield from ((f"quality.{index}", tag) for index, tag in enumerate(profile.quality))
    for key, fragments in (("affection", profile.affection), ("nsfw", profile.nsfw)):
        yield from ((f"{key}.{index}.prompt", fragment.prompt) for index, fragment in enumerate(fragments))


def _object(name: str, profile: Profile) -> dict[str, Any]:
    return {
        "name": name,
        "fingerprint": profile.fingerprint,
        "description": profile.description,
        "loras": {lora.name: lora.weight for lora in profile.loras},
        "affection": [[fragment.first, fragment.last] for fragment in profile.affection],
        "nsfw": [[fragment.first, fragment.last] for fragment in profile.nsfw],
    }


def _line(name: str, profile: Profile) -> str:
    parts = [f"{name:<24} {profile.fingerprint}"]
    for key, fragments in (("affection", profile.affection), ("nsfw", profile.nsfw)):
        if fragments:
            parts.append(f"{key} {', '.join(f'{fragment.first}-{fragment.last}' for fragment in fragments)}")
    parts += [f"{lora.name} x {lora.weight:g}" for lora in profile.loras]
    return "  ".join(parts)


def _composed(job: Job) -> dict[str, Any]:
    return {
        "profile": None if job.profile is None else job.profile.name,
        "fingerprint": None if job.profile is None else job.profile.fingerprint,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "loras": dict(job.loras),
    }


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case dict():
            return ", ".join(f"{name} x {weight:g}" for name, weight in value.items()) or "none"
        case _:
            return str(value)
