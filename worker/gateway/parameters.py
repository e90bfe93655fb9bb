"""What a request says beside its body: the names in its path, its query, and its headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import Path, Query, Request

from worker.events.headers import TRACEPARENT, passed_through
from worker.events.types import GenerationStatus, JobStatus, Priority
from worker.gateway.openapi import NAME_PATTERN
from worker.gateway.refusals import Refusal

MAX_KEY_CHARS = 255
MAX_REASON_CHARS = 200

JobId = Annotated[str, Path(pattern=NAME_PATTERN, description="The id of the job.")]
GirlId = Annotated[str | None, Query(pattern=NAME_PATTERN)]
LaneName = Annotated[str | None, Query(pattern="^(urgent|high|normal)$")]


async def only_known_parameters(request: Request) -> None:
    """Raises Refusal: 422, the query has a parameter that the path does not know, such as one with a typing error."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    unknown = sorted(request.query_params.keys() - known)
    if unknown:
        shown = unknown[0][:80]
        raise Refusal(
            422, f"this path knows no parameter {shown!r}; it knows {', '.join(sorted(known)) or 'none'}", shown
        )


class Filter:
    """Whether a job is one of those that were asked for; None asks for all."""

    def __init__(self, lane: str | None, girl_id: str | None, status: JobStatus | None = None) -> None:
        self._lane = None if lane is None else Priority(lane)
        self._girl_id = girl_id
        self._status = status

    def __call__(self, event: GenerationStatus) -> bool:
        return (
            (self._lane is None or event.priority is self._lane)
            and (self._girl_id is None or event.girl_id == self._girl_id)
            and (self._status is None or event.status is self._status)
        )


def idempotency_key(request: Request) -> str | None:
    """The key that makes a repeated request the same job. Raises Refusal: 422, it is none, or there are several."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= MAX_KEY_CHARS or not all("!" <= char <= "~" for char in keys[0]):
        sentence = f"it is one value of 1 to {MAX_KEY_CHARS} printable ASCII characters without spaces"
        raise Refusal(422, f"Idempotency-Key: {sentence}", "Idempotency-Key")
    return keys[0]


def passed_headers(request: Request) -> Mapping[str, str]:
    """What is passed through to the record of the request: its trace."""
    trace = request.headers.get(TRACEPARENT)
    return {} if trace is None else passed_through(((TRACEPARENT, trace.encode("latin-1", "replace")),))
