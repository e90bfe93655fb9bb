"""From the body of a request to the event that is sent, or the refusal that a worker would give later."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, get_type_hints

from worker.client.requests import request_from_record
from worker.errors import ErrorCode, RequestRejected
from worker.events.types import GenerationRequest, Priority
from worker.gateway.refusals import Refusal
from worker.intake.admit import AdmissionRules, Arrival, admit
from worker.job import Lane, Origin

_FIELDS = frozenset(field.name for field in fields(GenerationRequest))
_INTEGERS = frozenset(name for name, kind in get_type_hints(GenerationRequest).items() if kind in (int, int | None))
# Up to here a float is exactly one integer.
_EXACT = 2**53
_NO_ORIGIN = Origin(topic="", partition=0, offset=0, epoch=0)
_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Admission:
    """Holds requests to the rules of the worker, as far as this process has the worker's settings."""

    rules: AdmissionRules

    def request(self, body: bytes, *, job_id: str | None, now: datetime) -> GenerationRequest:
        """The request that a body asks for.

        Args:
            job_id: given by an Idempotency-Key; the body must not name another.

        Raises:
            Refusal: 400 for what is not JSON, 422 for what is no request or would be refused by a worker.
        """
        record = json_object(body)
        if job_id is not None:
            if "job_id" in record:
                raise Refusal(
                    422, "job_id and the header Idempotency-Key exclude each other: send one of them", "job_id"
                )
            record["job_id"] = job_id
        for name in _INTEGERS & record.keys():
            record[name] = _whole(record[name])
        try:
            request = request_from_record(record, now=now)
        except ValueError as error:
            raise _invalid(str(error)) from None
        self._check(request, now)
        return request

    def _check(self, request: GenerationRequest, now: datetime) -> None:
        arrival = Arrival(_NO_ORIGIN, lane_of(request), None, {})
        try:
            admit(request, arrival, self.rules, now.timestamp())
        except RequestRejected as rejected:
            raise Refusal(422, rejected.message, _field(rejected), rejected.code.value) from None


def lane_of(request: GenerationRequest) -> Lane:
    """The lane whose topic the request is sent to."""
    return {Priority.URGENT: Lane.URGENT, Priority.HIGH: Lane.HIGH}.get(request.priority, Lane.NORMAL)


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that the bytes are. Raises Refusal: they are none, or leave open what they mean."""
    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refusal(400, "the body holds half of a surrogate pair, which is no text") from None
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise Refusal(400, "the body is not JSON that is read here: too many brackets in each other") from None
    except ValueError as error:  # an integer of thousands of digits
        raise Refusal(400, f"the body is not JSON that is read here: {str(error).partition(';')[0]}") from None
    if not isinstance(value, dict):
        raise Refusal(422, "the body is not a JSON object")
    return value


def _whole(value: Any) -> Any:
    """30 for 30.0: JSON knows numbers, and some programs write every one with a point."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) <= _EXACT else value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refusal(400, f"the field {_shown(name)} stands in the body twice", _shown(name))
        found[name] = value
    return found


def _no_constant(text: str) -> float:
    raise Refusal(400, f"the body is not JSON: {text} is no number in JSON")


def _invalid(sentence: str) -> Refusal:
    place, colon, reason = sentence.partition(": ")
    if sentence.startswith("unknown field "):
        name = _shown(sentence.removeprefix("unknown field "))
        return Refusal(422, f"unknown field {name}", name, ErrorCode.INVALID_REQUEST.value)
    field = place if colon and place.partition(".")[0] in _FIELDS else None
    return Refusal(422, f"{place}: {reason}" if colon else sentence, field, ErrorCode.INVALID_REQUEST.value)


def _field(rejected: RequestRejected) -> str | None:
    """The sentences of admission begin with the field; those about words are about the prompt."""
    first = rejected.message.partition(" ")[0]
    if first in _FIELDS:
        return first
    return "prompt" if rejected.code is ErrorCode.CONTENT_REJECTED else None


def _shown(name: str) -> str:
    """A field's name from outside, as one printable line."""
    cut = name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}…"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
