"""Profiles: what is added to all requests of one archetype: prompts, LoRAs, sampling (`docs/profiles.md`).

Each profile is a TOML file. A request's `girl_id` selects the profile of that name, else `default`, else none.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from worker.errors import SettingsError
from worker.events.types import GenerationRequest
from worker.job import SAFE_NAME, AppliedProfile
from worker.presets import preset_named
from worker.prompt_syntax import PromptSyntax

DEFAULT = "default"

_FINGERPRINT_DIGITS = 16

_YOUNGER = ("preset", "prompt_syntax")

Loras = tuple[tuple[str, float], ...]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProfileLora(_Table):
    """A LoRA from the folder `SDXL_LORA_PATH`."""

    name: str
    weight: float = Field(1.0, strict=True)

    @field_validator("name")
    @classmethod
    def _no_path(cls, name: str) -> str:
        if not SAFE_NAME.fullmatch(name):
            raise ValueError("a LoRA is named by its file name in the LoRA folder without .safetensors, not by a path")
        return name

    @field_validator("weight")
    @classmethod
    def _finite(cls, weight: float) -> float:
        if not math.isfinite(weight):
            raise ValueError("must be a finite number")
        return weight


class Fragment(_Table):
    """Text that is added for levels from `first` to `last`, both included."""

    first: int = Field(alias="from", ge=0, le=100, strict=True)
    last: int = Field(alias="to", ge=0, le=100, strict=True)
    prompt: str = ""
    negative_prompt: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.first > self.last:
            raise ValueError(f"the range from {self.first} to {self.last} is empty")
        if not _core(self.prompt) and not _core(self.negative_prompt):
            raise ValueError("has neither prompt nor negative_prompt")
        return self


class Profile(_Table):
    """The content of one profile file; the tags in `quality` go to the end of the prompt."""

    description: str = ""
    prompt: str = ""
    negative_prompt: str | None = None
    quality: tuple[str, ...] = ()
    loras: tuple[ProfileLora, ...] = ()
    preset: str | None = None
    prompt_syntax: PromptSyntax | None = None
    affection: tuple[Fragment, ...] = ()
    nsfw: tuple[Fragment, ...] = ()

    @field_validator("preset")
    @classmethod
    def _is_preset(cls, preset: str | None) -> str | None:
        if preset is not None:
            preset_named(preset)
        return preset

    @field_validator("loras")
    @classmethod
    def _each_once(cls, loras: tuple[ProfileLora, ...]) -> tuple[ProfileLora, ...]:
        if len({lora.name for lora in loras}) < len(loras):
            raise ValueError("names one LoRA twice")
        return loras

    @field_validator("affection", "nsfw")
    @classmethod
    def _apart(cls, fragments: tuple[Fragment, ...]) -> tuple[Fragment, ...]:
        for one, other in pairwise(sorted(fragments, key=lambda fragment: fragment.first)):
            if other.first <= one.last:
                raise ValueError(
                    f"the ranges from {one.first} to {one.last} and from {other.first} to {other.last} overlap"
                )
        return fragments

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of the profile's values, without comments, layout and the description."""
        # Younger keys that are not set are left out, so that older profiles keep the fingerprint that manifests hold.
        unset = {name for name in _YOUNGER if getattr(self, name) is None}
        text = self.model_dump_json(by_alias=True, exclude={"description"} | unset)
        return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_DIGITS]

    def prompt_for(self, request: GenerationRequest) -> str:
        """Join the prompts of profile, request, affection, nsfw and quality; earlier parts have the most weight."""
        fragments = [fragment.prompt for fragment in self._fragments(request)]
        return _joined([self.prompt, request.prompt, *fragments, *self.quality])

    def negative_prompt_for(self, request: GenerationRequest) -> str | None:
        """Join the negative prompts of profile, fragments and request; the result is None if all of them are absent."""
        fragments = [fragment.negative_prompt for fragment in self._fragments(request)]
        joined = _joined([self.negative_prompt or "", *fragments, request.negative_prompt or ""])
        absent = self.negative_prompt is None and request.negative_prompt is None
        return None if absent and not joined else joined

    def loras_for(self, request: GenerationRequest) -> Loras:
        """Return the profile's LoRAs, then the request's others; for a LoRA in both, the request's weight is used."""
        own = {lora.name: lora.weight for lora in self.loras}
        return tuple((own | {lora.name: lora.weight for lora in request.loras}).items())

    def _fragments(self, request: GenerationRequest) -> list[Fragment]:
        levels = ((self.affection, request.affection_level), (self.nsfw, request.nsfw_level))
        return [one for fragments, level in levels for one in fragments if one.first <= level <= one.last]


class Profiles:
    """All profiles of a folder, by name."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._profiles = dict(profiles)
        self._applied = {name: AppliedProfile(name, profile.fingerprint) for name, profile in profiles.items()}

    def __iter__(self) -> Iterator[tuple[str, Profile]]:
        return iter(sorted(self._profiles.items()))

    def of(self, girl_id: str) -> tuple[Profile, AppliedProfile] | None:
        """Return the profile for a `girl_id` with the manifest's record of it, or None if no profile applies."""
        name = girl_id if girl_id in self._profiles else DEFAULT
        return (self._profiles[name], self._applied[name]) if name in self._profiles else None


def load_profiles(folder: Path, max_loras: int, max_lora_weight: float) -> Profiles:
    """Read every `NAME.toml` of a folder.

    Raises:
        SettingsError: the folder cannot be read, or a profile is invalid; the message names each file and key.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise SettingsError(f"PROFILES_PATH: {folder} is not a readable folder: {error.strerror}") from error
    if not files:
        raise SettingsError(f"PROFILES_PATH: {folder} has no profiles: no file in it ends in .toml")
    profiles, problems = {}, []
    for file in files:
        try:
            profiles[file.stem] = _read(file, max_loras, max_lora_weight)
        except ValueError as error:
            problems.append(f"{file}: {error}")
    if problems:
        raise SettingsError("; ".join(problems))
    return Profiles(profiles)


def _read(file: Path, max_loras: int, max_lora_weight: float) -> Profile:
    """Read one profile.

    Raises:
        ValueError: the profile is invalid; the message begins with the key, if there is one.
    """
    if not SAFE_NAME.fullmatch(file.stem):
        raise ValueError("the file name is not a valid girl_id (A-Z a-z 0-9 . _ - and no leading dot)")
    try:
        profile = Profile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError("; ".join(f"{_key(e['loc'])}: {_sentence(e['msg'])}" for e in error.errors())) from None
    if len(profile.loras) > max_loras:
        raise ValueError(f"loras: {len(profile.loras)} LoRAs, but MAX_LORAS is {max_loras}")
    for index, lora in enumerate(profile.loras):
        if abs(lora.weight) > max_lora_weight:
            raise ValueError(f"loras.{index}.weight: {lora.weight:g} exceeds MAX_LORA_WEIGHT, {max_lora_weight:g}")
    return profile


def _key(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)


def _sentence(message: str) -> str:
    return "there is no such key" if message.startswith("Extra inputs") else message.removeprefix("Value error, ")


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(core for part in parts if (core := _core(part)))


def _core(text: str) -> str:
    """Strip commas and whitespace from the ends of a part; joining adds them again."""
    return text.strip(", \t\r\n")
