"""Requests from JSON lines and from the flags of `submit`: types are checked here, limits by the worker."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from worker.events.schemas import current
from worker.events.types import GenerationRequest, Lora, Priority
from worker.topics import Topics

_FIELDS = frozenset(field.name for field in fields(GenerationRequest))


def request_from_line(line: str, *, now: datetime) -> GenerationRequest:
    """The request of one JSON object; an absent `job_id` is made up, an absent `requested_at` is now.

    Raises:
        ValueError: it is no request; the message names the field.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not JSON that is read here: too many brackets in each other") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return request_from_record(record, now=now)


def request_from_record(record: Mapping[str, Any], *, now: datetime) -> GenerationRequest:
    """The request of a JSON object's fields.

    Raises:
        ValueError: it is no request; the message names the field.
    """
    unknown = sorted(record.keys() - _FIELDS)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]}")
    made_up = {"job_id": str(uuid.uuid4()), "requested_at": now.isoformat()}
    try:
        # JSON's strict mode takes text for enums and times, and no text for numbers.
        request = _adapter().validate_json(json.dumps(made_up | dict(record)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the request"
        raise ValueError(f"{place}: {first['msg']}") from None
    if request.priority is Priority.UNKNOWN:
        raise ValueError("priority: one of urgent, high, normal")
    for name in ("requested_at", "expires_at"):
        moment = getattr(request, name)
        if moment is not None and moment.tzinfo is None:
            raise ValueError(f"{name}: carries no timezone")
    _check_ranges(request)
    return request


def _check_ranges(request: GenerationRequest) -> None:
    """fastavro's writer lets an int of any size pass, and no reader in another language would take it."""
    for field in current()[GenerationRequest].parsed["fields"]:
        value, bits = getattr(request, field["name"]), 31 if field["type"] == "int" else 63
        if type(value) is int and not -(2**bits) <= value < 2**bits:
            raise ValueError(f"{field['name']}: more than {bits} bits")
    for name, number in (
        ("guidance_scale", request.guidance_scale),
        *((f"loras.{n}.weight", lora.weight) for n, lora in enumerate(request.loras)),
    ):
        if not math.isfinite(number):
            raise ValueError(f"{name}: a finite number is wanted")


def request_topic(topics: Topics, request: GenerationRequest) -> str:
    """The lane's topic: it, not the field, decides."""
    lanes = {Priority.URGENT: topics.urgent, Priority.HIGH: topics.high, Priority.NORMAL: topics.normal}
    return lanes[request.priority]


def parse_size(text: str) -> tuple[int, int]:
    """`1024x768` as width and height.

    Raises:
        ValueError: it has another form.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.strip().isdecimal() and height.strip().isdecimal()):
        raise ValueError(f"{text!r} is not WIDTHxHEIGHT, such as 1024x768")
    return int(width), int(height)


def parse_lora(text: str) -> Lora:
    """`name` or `name:weight`.

    Raises:
        ValueError: the weight is no number, or the name is empty.
    """
    name, _, weight = text.rpartition(":") if ":" in text else (text, "", "1")
    try:
        lora = Lora(name=name.strip(), weight=float(weight))
        if not math.isfinite(lora.weight):
            raise ValueError(weight)
    except ValueError:
        raise ValueError(f"{text!r} is not NAME or NAME:WEIGHT, such as ink:0.8") from None
    if not lora.name:
        raise ValueError(f"{text!r} names no LoRA")
    return lora


def utc_now() -> datetime:
    """Now, as events carry it."""
    return datetime.now(UTC)


@cache
def _adapter() -> TypeAdapter[GenerationRequest]:
    return TypeAdapter(GenerationRequest)
