"""Profiles: what the pictures of one archetype have in common, in a TOML file each; `docs/profiles.md` has the fields.

`girl_id` chooses the file: the one of that name, else `default`, else none.
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

DEFAULT = "default"

_FINGERPRINT_DIGITS = 16

Loras = tuple[tuple[str, float], ...]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProfileLora(_Table):
    """A LoRA of the configured folder."""

    name: str
    weight: float = Field(1.0, strict=True)

    @field_validator("name")
    @classmethod
    def _no_path(cls, name: str) -> str:
        if not SAFE_NAME.fullmatch(name):
            raise ValueError("a LoRA is named by its file in the LoRA folder without .safetensors, never by a path")
        return name

    @field_validator("weight")
    @classmethod
    def _finite(cls, weight: float) -> float:
        if not math.isfinite(weight):
            raise ValueError("it must be a finite number")
        return weight


class Fragment(_Table):
    """What is added at the levels from `first` to `last`, both included."""

    first: int = Field(alias="from", ge=0, le=100, strict=True)
    last: int = Field(alias="to", ge=0, le=100, strict=True)
    prompt: str = ""
    negative_prompt: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.first > self.last:
            raise ValueError(f"the range from {self.first} to {self.last} is empty")
        if not _core(self.prompt) and not _core(self.negative_prompt):
            raise ValueError("it has neither prompt nor negative_prompt")
        return self


class Profile(_Table):
    """One file. `quality` are tags for the end of the prompt."""

    description: str = ""
    prompt: str = ""
    negative_prompt: str | None = None
    quality: tuple[str, ...] = ()
    loras: tuple[ProfileLora, ...] = ()
    affection: tuple[Fragment, ...] = ()
    nsfw: tuple[Fragment, ...] = ()

    @field_validator("loras")
    @classmethod
    def _each_once(cls, loras: tuple[ProfileLora, ...]) -> tuple[ProfileLora, ...]:
        if len({lora.name for lora in loras}) < len(loras):
            raise ValueError("it names one LoRA twice")
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
        """16 hex digits of SHA-256 over what it says; remarks, layout and the description do not count."""
        text = self.model_dump_json(by_alias=True, exclude={"description"})
        return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_DIGITS]

    def prompt_for(self, request: GenerationRequest) -> str:
        """Base, request, affection, nsfw, quality: what comes first weighs most."""
        fragments = [fragment.prompt for fragment in self._fragments(request)]
        return _joined([self.prompt, request.prompt, *fragments, *self.quality])

    def negative_prompt_for(self, request: GenerationRequest) -> str | None:
        """The profile's, its fragments', the request's; what is null everywhere stays null."""
        fragments = [fragment.negative_prompt for fragment in self._fragments(request)]
        joined = _joined([self.negative_prompt or "", *fragments, request.negative_prompt or ""])
        nobody = self.negative_prompt is None and request.negative_prompt is None
        return None if nobody and not joined else joined

    def loras_for(self, request: GenerationRequest) -> Loras:
        """The profile's, then the request's further ones; for a LoRA of both the request's weight counts."""
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
        """The profile for an id, and what the manifest says of it; None where there is none."""
        name = girl_id if girl_id in self._profiles else DEFAULT
        return (self._profiles[name], self._applied[name]) if name in self._profiles else None


def load_profiles(folder: Path, max_loras: int, max_lora_weight: float) -> Profiles:
    """Every `NAME.toml` of a folder.

    Raises:
        SettingsError: with the file and the key of all that is wrong.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise SettingsError(f"PROFILES_PATH: {folder} is no folder that can be read: {error.strerror}") from error
    if not files:
        raise SettingsError(f"PROFILES_PATH: {folder} has no profile: no file there ends in .toml")
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
    """Raises ValueError, whose text begins with the key where there is one."""
    if not SAFE_NAME.fullmatch(file.stem):
        raise ValueError("its name can be no girl_id: A-Z a-z 0-9 . _ - and no dot first")
    try:
        profile = Profile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ValueError("; ".join(f"{_key(e['loc'])}: {_sentence(e['msg'])}" for e in error.errors())) from None
    if len(profile.loras) > max_loras:
        raise ValueError(f"loras: {len(profile.loras)} of them; MAX_LORAS is {max_loras}")
    for index, lora in enumerate(profile.loras):
        if abs(lora.weight) > max_lora_weight:
            raise ValueError(f"loras.{index}.weight: {lora.weight:g} is beyond MAX_LORA_WEIGHT, {max_lora_weight:g}")
    return profile


def _key(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)


def _sentence(message: str) -> str:
    return "there is no such key" if message.startswith("Extra inputs") else message.removeprefix("Value error, ")


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(core for part in parts if (core := _core(part)))


def _core(text: str) -> str:
    """A part without the commas and blanks at its ends, which joining puts there anew."""
    return text.strip(", \t\r\n")
