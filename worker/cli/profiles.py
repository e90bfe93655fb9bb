"""The `profiles check` and `profiles preview` verbs."""

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
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import Job, Lane, Origin
from worker.lora_folder import lora_file
from worker.profiles import Profile
from worker.prompt_syntax import readings
from worker.rule_files import read_rules
from worker.settings import load_settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Check profiles, or preview a request composed with one."
)


@app.command()
def check(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of profiles (default: PROFILES_PATH).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per profile.")] = False,
) -> None:
    """Check every profile as the worker does at startup, and for prompts and LoRAs that would make requests fail.

    Exit code 1: a profile has a problem.
    """
    rules = _load(folder)
    assert rules.profiles is not None
    problems = []
    for name, profile in rules.profiles:
        found = list(_problems(profile, rules))
        problems += [f"{name}.toml: {problem}" for problem in found]
        if as_json:
            print_json(_object(name, profile) | {"problems": found})
        else:
            print(_line(name, profile))
    if problems:
        raise CommandError("; ".join(problems))


@app.command()
def preview(
    girl_id: Annotated[str, typer.Argument(metavar="GIRL_ID", help="The girl_id whose profile is used.")],
    prompt: Annotated[str, typer.Option(help="Prompt of the request.")],
    negative_prompt: Annotated[str | None, typer.Option(help="Negative prompt of the request.")] = None,
    affection: Annotated[int, typer.Option(metavar="N", min=0, max=100, help="Affection level, 0 to 100.")] = 0,
    nsfw_level: Annotated[
        int,
        typer.Option("--nsfw", "--nsfw-level", metavar="N", min=0, max=100, help="NSFW level, 0 to 100."),
    ] = 0,
    folder: Annotated[Path | None, typer.Option("--dir", help="Folder of profiles (default: PROFILES_PATH).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print the prompts and LoRAs that the worker would use for a request.

    Exit code 1: the worker would reject the request.
    """
    rules = _load(folder)
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
        job = admit(request, Arrival(Origin("preview", 0, 0, 0), Lane.NORMAL, now, {}), rules, now)
    except RequestRejected as error:
        raise CommandError(f"{error.code.value}: {error.message}") from error
    if as_json:
        print_json(_composed(job))
        return
    for key, value in _composed(job).items():
        print(f"{key:<16} {value if isinstance(value, str) else _text(value)}")


def _load(folder: Path | None) -> AdmissionRules:
    """Load the rules with the profiles of `folder`, or of PROFILES_PATH where it is None.

    Raises:
        CommandError: no folder was given and PROFILES_PATH is not set.
        SettingsError: a profile or another setting is invalid.
    """
    settings = load_settings() if folder is None else load_settings(profiles_path=folder)
    if settings.profiles_path is None:
        raise CommandError("no folder of profiles: name one, or set PROFILES_PATH")
    return read_rules(settings)


def _problems(profile: Profile, rules: AdmissionRules) -> Iterator[str]:
    """Yield the problems that do not keep the worker from starting but make all or most requests fail."""
    syntax = profile.prompt_syntax or rules.settings.prompt_syntax
    for key, text in _texts(profile):
        try:
            folded = [fold(reading) for reading in readings(text, syntax)]
        except ValueError as error:
            yield f"{key}: it {error}"
            continue
        if any(points_at_minor(reading) for reading in folded):
            yield f"{key}: it points at a minor, so requests with an nsfw_level above 0 fail as content_rejected"
        if rules.denied is not None and any(rules.denied.found_in(reading) for reading in folded):
            yield f"{key}: it contains a phrase from CONTENT_DENY_PATH"
    for key, text in _negative_texts(profile):
        try:
            readings(text, syntax)
        except ValueError as error:
            yield f"{key}: it {error}"
    lora_dir = rules.settings.lora_dir
    if profile.loras and lora_dir is None:
        yield "loras: SDXL_LORA_PATH is not set"
        return
    for index, lora in enumerate(profile.loras):
        assert lora_dir is not None
        if not lora_file(lora_dir, lora.name).is_file():
            yield f"loras.{index}.name: {lora_dir} has no {lora.name}.safetensors"


def _texts(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "prompt", profile.prompt
    yield from ((f"quality.{index}", tag) for index, tag in enumerate(profile.quality))
    for key, fragments in (("affection", profile.affection), ("nsfw", profile.nsfw)):
        yield from ((f"{key}.{index}.prompt", fragment.prompt) for index, fragment in enumerate(fragments))


def _negative_texts(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "negative_prompt", profile.negative_prompt or ""
    for key, fragments in (("affection", profile.affection), ("nsfw", profile.nsfw)):
        yield from (
            (f"{key}.{index}.negative_prompt", fragment.negative_prompt) for index, fragment in enumerate(fragments)
        )


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
        "preset": None if job.preset is None else job.preset.name,
    }


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case dict():
            return ", ".join(f"{name} x {weight:g}" for name, weight in value.items()) or "none"
        case _:
            return str(value)
