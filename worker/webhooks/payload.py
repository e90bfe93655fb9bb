"""What a webhook says: the id, the trace and the JSON body of a result. Pure functions."""

from __future__ import annotations

import json
import math
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from worker.events.conversion import to_record
from worker.events.headers import Place, event_id, header_text, passed_through
from worker.events.single_object import Headers
from worker.events.types import GenerationCompleted, GenerationFailed

Result: TypeAlias = GenerationCompleted | GenerationFailed

# An id of ours is a UUID. A dot would make the signed text ambiguous, and other characters may not stand in a header.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Payload:
    """A request without its signature; `headers` are those that are the same in every attempt."""

    webhook_id: str
    body: bytes
    headers: dict[str, str]


def payload(event: Result, headers: Headers, place: Place) -> Payload:
    """The webhook of a result.

    Args:
        headers: of its record. `ce_id` is the webhook's id, so that receivers can tell a repeated one.
        place: topic, partition and offset of its record.
    """
    completed = isinstance(event, GenerationCompleted)
    moment = event.completed_at if completed else event.failed_at  # type: ignore[union-attr]
    content = {
        "type": "generation.completed" if completed else "generation.failed",
        "timestamp": _plain(moment),
        "data": _plain(to_record(event)),
    }
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return Payload(_webhook_id(event, headers, place), body, passed_through(headers))


def _webhook_id(event: Result, headers: Headers, place: Place) -> str:
    """`ce_id`, and something as constant in place of one that is missing or can be no id."""
    given = header_text(headers, "ce_id")
    if given is None:
        return event_id(event, place)
    return given if _ID.fullmatch(given) else str(uuid.uuid5(uuid.NAMESPACE_URL, repr((*place, given))))


def _plain(value: object) -> object:
    """JSON knows neither times nor infinities; a foreign producer's NaN becomes null."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list():
            return [_plain(item) for item in value]
    return value
