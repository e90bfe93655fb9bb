"""From a dead letter to the record that is sent in its place. Pure."""

from __future__ import annotations

import json
import typing
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cache
from typing import Any

from worker.cli.requests import request_from_record
from worker.events.dead_letters import DeadLetter
from worker.events.partial import Reading
from worker.events.types import GenerationRequest
from worker.job import SAFE_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What is changed in the requests that are sent again.

    Args:
        given: fields by name, as JSON types, in place of what was read.
        unset: fields that are left out, so that they get their defaults.
        edited: a whole request, in place of everything that was read.
        partial: whether fields that could not be read may get their defaults.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    unset: Sequence[str] = ()
    edited: Mapping[str, Any] | None = None
    partial: bool = False

    @property
    def changes_anything(self) -> bool:
        """Whether a new request is made; otherwise the original bytes are sent."""
        return bool(self.given or self.unset or self.edited is not None or self.partial)


def parse_given(texts: Sequence[str]) -> dict[str, Any]:
    """Parse `field=value`: text fields take the text as it is, others JSON; `null` is no value.

    Raises:
        ValueError: the text does not have that form, or names no field of a request.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not FIELD=VALUE, such as width=1024")
        if name not in _types():
            raise ValueError(f"a request has no field {name!r}; its fields are {', '.join(_types())}")
        found[name] = _json_value(name, value)
    return found


def parse_edited(text: str) -> dict[str, Any]:
    """The request that a person edited, as `show --fields` printed it.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def corrected(letter: DeadLetter, reading: Reading, correction: Correction, *, now: datetime) -> GenerationRequest:
    """The request that is sent in place of a letter.

    A job id that is absent becomes the record's key, or one that is the same for every call.

    Raises:
        ValueError: it is not a valid request; the message names the field.
    """
    record = dict(reading.fields if correction.edited is None else correction.edited)
    unread = reading.stopped_at is not None or not reading.fields
    if correction.edited is None and unread and not correction.partial:
        which = f"{reading.stopped_at} and the fields after it" if reading.stopped_at else "its fields"
        raise ValueError(f"{which} cannot be read: give them with --set and --partial, or all with --edited")
    if correction.edited is None and reading.framing != "json":
        # What a foreign schema has besides our fields is left out, as Avro's resolution leaves it out.
        record = {name: value for name, value in record.items() if name in _types()}
    record |= correction.given
    for name in correction.unset:
        record.pop(name, None)
    record.setdefault("job_id", _job_id(letter))
    return request_from_record(record, now=now)


def _job_id(letter: DeadLetter) -> str:
    try:
        key = (letter.key or b"").decode()
    except UnicodeDecodeError:
        key = ""
    return key if SAFE_NAME.fullmatch(key) else str(uuid.uuid5(uuid.NAMESPACE_URL, letter.identity))


def _json_value(name: str, text: str) -> Any:
    if text == "null":
        return None
    if str in (_types()[name], *typing.get_args(_types()[name])):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # An enum's symbol or a time; what is none is told with the field's name.
        return text


@cache
def _types() -> dict[str, Any]:
    hints = typing.get_type_hints(GenerationRequest)
    return {item.name: hints[item.name] for item in fields(GenerationRequest)}
