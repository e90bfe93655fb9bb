"""From a decoded request to a job, or a sentence that says what is wrong with it. Pure."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

from worker.content.phrases import Phrases
from worker.content.rules import check_content
from worker.errors import ErrorCode, RequestRejected
from worker.events.types import GenerationRequest, OutputFormat
from worker.intake.times import plausible
from worker.job import (
    MAX_NAME_CHARS,
    SAFE_NAME,
    SCHEDULERS,
    SEED_MODULUS,
    AppliedProfile,
    Job,
    Lane,
    Origin,
    effective_seed,
)
from worker.presets import PRESETS, Preset, preset_named
from worker.profiles import Profiles
from worker.prompt_syntax import PromptSyntax, readings
from worker.settings import Settings

# SDXL's latents are an eighth of the picture.
_SIDE_MULTIPLE = 8

_MAX_SEED = 2**63 - 1

# Of a wrong name, in messages.
_SHOWN_CHARS = 80
_DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a record beside its value. Times are seconds since the epoch; None: not known."""

    origin: Origin
    lane: Lane
    recorded_at: float | None
    headers: dict[str, str]
    attempt: int = 1
    replay_id: str | None = None


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """What requests are held to: limits from the settings, profiles and deny list as they were read at the start."""

    settings: Settings
    profiles: Profiles | None = None
    denied: Phrases | None = None


@dataclass(frozen=True, slots=True)
class _Composed:
    """What a request asks for, with its profile's part."""

    prompt: str
    negative_prompt: str | None
    loras: tuple[tuple[str, float], ...]
    profile: AppliedProfile | None = None
    preset: Preset | None = None
    prompt_syntax: PromptSyntax = PromptSyntax.LITERAL


def admit(request: GenerationRequest, arrival: Arrival, rules: AdmissionRules, now: float) -> Job:
    """The job that `request` asks for.

    Raises:
        RequestRejected: `invalid_request`, `unknown_lora` for a name that can be none, `content_rejected`, or `expired`
            when its time has passed already.
    """
    settings = rules.settings
    _check_identity(request)
    _check_prompts(request, settings)
    _check_numbers(request, settings)
    _check_size(request, settings)
    composed = _compose(request, rules)
    for text in _readings(composed):
        check_content(text, request.nsfw_level, rules.denied)
    expires_at = None if request.expires_at is None else request.expires_at.timestamp()
    if expires_at is not None and expires_at <= now:
        raise RequestRejected(ErrorCode.EXPIRED, "expires_at had passed when the request arrived")
    requested = None if request.requested_at is None else plausible(request.requested_at.timestamp(), now)
    recorded_at = now if arrival.recorded_at is None else arrival.recorded_at
    return Job(
        request=request,
        lane=arrival.lane,
        origin=arrival.origin,
        seed=derived_seed(request.job_id) if request.seed is None else effective_seed(request.seed),
        loras=composed.loras,
        prompt=composed.prompt,
        negative_prompt=composed.negative_prompt,
        attempt=arrival.attempt,
        requested_at=recorded_at if requested is None else requested,
        received_at=now,
        expires_at=expires_at,
        recorded_at=arrival.recorded_at,
        headers=arrival.headers,
        replay_id=arrival.replay_id,
        profile=composed.profile,
        preset=composed.preset,
        prompt_syntax=composed.prompt_syntax,
    )


def with_bounded_ids(request: GenerationRequest) -> GenerationRequest:
    """A refused request whose ids are short enough to be echoed in events, keys, headers and logs.

    An id that is too long keeps its beginning and gets a digest, so that two of them stay different.
    """
    return replace(request, job_id=_bounded(request.job_id), girl_id=_bounded(request.girl_id))


def _bounded(text: str) -> str:
    if len(text) <= MAX_NAME_CHARS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
    return f"{text[: MAX_NAME_CHARS - _DIGEST_DIGITS - 1]}~{digest}"


def derived_seed(job_id: str) -> int:
    """The seed of a request without one: 32 bits of SHA-256 over its id, so that it is the same every time.

    Of its first 8 bytes the low ones, which are all that ever counted of the 63 bits in older manifests.
    """
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8], "big") % SEED_MODULUS


def _reject(message: str) -> RequestRejected:
    return RequestRejected(ErrorCode.INVALID_REQUEST, message)


def _shown(text: str) -> str:
    """Text of a stranger, fit for one line: the signs that cannot be printed make it up to ten times longer."""
    shown = repr(text[:_SHOWN_CHARS])
    return shown if len(shown) <= _SHOWN_CHARS + 2 else f"{shown[:_SHOWN_CHARS]}…"


def _check_identity(request: GenerationRequest) -> None:
    for name in ("job_id", "girl_id"):
        if not SAFE_NAME.fullmatch(getattr(request, name)):
            raise _reject(f"{name} must be 1 to 128 of A-Z a-z 0-9 . _ - and not start with a dot")
    if request.job_id.endswith("_thumb"):
        raise _reject("job_id must not end in _thumb, which names thumbnails")


def _check_prompts(request: GenerationRequest, settings: Settings) -> None:
    if not request.prompt.strip():
        raise _reject("prompt is empty")
    for name in ("prompt", "negative_prompt"):
        length = len(getattr(request, name) or "")
        if length > settings.max_prompt_chars:
            raise _reject(f"{name} has {length} characters; at most {settings.max_prompt_chars} are allowed")


def _check_numbers(request: GenerationRequest, settings: Settings) -> None:
    for name, low, high in (
        ("affection_level", 0, 100),
        ("nsfw_level", 0, 100),
        ("num_inference_steps", 1, settings.max_inference_steps),
        ("guidance_scale", 0, settings.max_guidance_scale),
    ):
        value = getattr(request, name)
        if not math.isfinite(value) or not low <= value <= high:
            raise _reject(f"{name} is {value}; it must be from {low} to {high:g}")
    if request.seed is not None and not 0 <= request.seed <= _MAX_SEED:
        raise _reject(f"seed is {request.seed}; it must be from 0 to 2^63 - 1")
    if request.scheduler not in SCHEDULERS and request.scheduler not in PRESETS:
        known = ", ".join(SCHEDULERS)
        raise _reject(f"scheduler {_shown(request.scheduler)} is unknown; known are {known}, and presets by name")
    if request.output_format is OutputFormat.UNKNOWN:
        raise _reject("output_format is unknown; known are jpeg, webp, png")


def _check_size(request: GenerationRequest, settings: Settings) -> None:
    for name in ("width", "height"):
        side = getattr(request, name)
        if side % _SIDE_MULTIPLE or not settings.min_side <= side <= settings.max_side:
            raise _reject(
                f"{name} is {side}; it must be a multiple of {_SIDE_MULTIPLE}"
                f" from {settings.min_side} to {settings.max_side}"
            )
    if request.width * request.height > settings.max_pixels:
        raise _reject(f"width x height is over {settings.max_pixels} pixels")


def _compose(request: GenerationRequest, rules: AdmissionRules) -> _Composed:
    settings = rules.settings
    _check_loras(request, settings)
    found = None if rules.profiles is None else rules.profiles.of(request.girl_id)
    if found is None:
        loras = tuple((lora.name, lora.weight) for lora in request.loras)
        composed = _Composed(request.prompt, request.negative_prompt, loras, prompt_syntax=settings.prompt_syntax)
    else:
        profile, applied = found
        loras = profile.loras_for(request)
        if len(loras) > settings.max_loras:
            limit = settings.max_loras
            raise _reject(f"loras has {len(loras)} entries with the profile's; at most {limit} are allowed")
        composed = _Composed(
            profile.prompt_for(request),
            profile.negative_prompt_for(request),
            loras,
            applied,
            prompt_syntax=profile.prompt_syntax or settings.prompt_syntax,
        )
    if not composed.loras and settings.default_lora is not None:
        composed = replace(composed, loras=((settings.default_lora, 1.0),))
    return _with_preset(composed, request, None if found is None else found[0].preset, settings)


def _with_preset(
    composed: _Composed, request: GenerationRequest, of_profile: str | None, settings: Settings
) -> _Composed:
    """Add the preset that the request names as its scheduler, else the profile's, else that of the model."""
    if request.scheduler in PRESETS:
        return replace(composed, preset=PRESETS[request.scheduler])
    if of_profile is not None:
        return replace(composed, preset=preset_named(of_profile))
    added = () if settings.sdxl_preset_lora is None else ((settings.sdxl_preset_lora, 1.0),)
    loras = tuple(dict([*added, *composed.loras]).items())
    return replace(composed, loras=loras, preset=preset_named(settings.sdxl_preset))


def _readings(composed: _Composed) -> tuple[str, ...]:
    """What rules about words see of the prompt. Raises RequestRejected: a weight of a prompt is out of bounds."""
    found = {}
    for name in ("prompt", "negative_prompt"):
        try:
            found[name] = readings(getattr(composed, name) or "", composed.prompt_syntax)
        except ValueError as error:
            raise _reject(f"{name} {error}") from error
    return found["prompt"]


def _check_loras(request: GenerationRequest, settings: Settings) -> None:
    loras = request.loras
    if len(loras) > settings.max_loras:
        raise _reject(f"loras has {len(loras)} entries; at most {settings.max_loras} are allowed")
    for lora in loras:
        if not SAFE_NAME.fullmatch(lora.name):
            raise RequestRejected(ErrorCode.UNKNOWN_LORA, f"loras names {_shown(lora.name)}, which is no valid name")
        if not math.isfinite(lora.weight) or abs(lora.weight) > settings.max_lora_weight:
            limit = settings.max_lora_weight
            raise _reject(f"loras gives {lora.name} the weight {lora.weight}; it must be from -{limit:g} to {limit:g}")
    if len({lora.name for lora in loras}) < len(loras):
        raise _reject("loras names one LoRA twice")
