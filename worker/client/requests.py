"""Build requests from the JSON of a person or a program; types are checked here, limits by the worker."""

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
from worker.events.types import GenerationRequest, Priority
from worker.topics import Topics

_FIELDS = frozenset(field.name for field in fields(GenerationRequest))


def request_from_line(line: str, *, now: datetime) -> GenerationRequest:
    """Build the request that a line of JSON holds.

    An absent `job_id` becomes a random UUID, an absent `requested_at` becomes `now`.

    Raises:
        ValueError: the line is not a valid request; the message names the field.
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
    """Build a request from the fields of a JSON object.

    Raises:
        ValueError: the fields are not a valid request; the message names the field.
    """
    unknown = sorted(record.keys() - _FIELDS)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]}")
    made_up = {"job_id": str(uuid.uuid4()), "requested_at": now.isoformat()}
    try:
        # Strict mode for JSON accepts text for enums and times, but not for numbers.
        request = _adapter().validate_json(json.dumps(made_up | dict(record)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the request"
        raise ValueError(f"{place}: {first['msg']}") from None
    if request.priority is Priority.UNKNOWN:
        raise ValueError("priority: must be one of urgent, high, normal")
    for name in ("requested_at", "expires_at"):
        moment = getattr(request, name)
        if moment is not None and moment.tzinfo is None:
            raise ValueError(f"{name}: has no timezone")
    _check_ranges(request)
    return request


def _check_ranges(request: GenerationRequest) -> None:
    """Reject integers that do not fit their Avro type: fastavro writes them, but readers in other languages fail."""
    for field in current()[GenerationRequest].parsed["fields"]:
        value, bits = getattr(request, field["name"]), 31 if field["type"] == "int" else 63
        if type(value) is int and not -(2**bits) <= value < 2**bits:
            raise ValueError(f"{field['name']}: does not fit in {bits + 1} bits")
    for name, number in (
        ("guidance_scale", request.guidance_scale),
        *((f"loras.{n}.weight", lora.weight) for n, lora in enumerate(request.loras)),
    ):
        if not math.isfinite(number):
            raise ValueError(f"{name}: must be a finite number")


def request_topic(topics: Topics, request: GenerationRequest) -> str:
    """Return the request topic for the request's priority; workers take the lane from the topic."""
    lanes = {Priority.URGENT: topics.urgent, Priority.HIGH: topics.high, Priority.NORMAL: topics.normal}
    return lanes[request.priority]


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


@cache
def _adapter() -> TypeAdapter[GenerationRequest]:
    return TypeAdapter(GenerationRequest)
