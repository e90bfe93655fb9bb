"""Requests from JSON and from flags: what is rejected, and with which message."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.cli.requests import parse_lora, parse_size, request_from_line, request_from_record, request_topic
from worker.events.types import Lora, OutputFormat, Priority
from worker.topics import Topics

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEEDED: dict[str, Any] = {"girl_id": "g", "user_id": 7, "prompt": "a fox"}


def test_what_is_absent_is_made_up_or_the_default() -> None:
    request = request_from_record(NEEDED, now=NOW)
    assert uuid.UUID(request.job_id).version == 4
    assert request.requested_at == NOW
    assert (request.num_inference_steps, request.priority) == (30, Priority.NORMAL)


def test_every_kind_of_field_is_read() -> None:
    line = json.dumps(
        NEEDED
        | {
            "priority": "urgent",
            "output_format": "webp",
            "guidance_scale": 7,
            "loras": [{"name": "ink", "weight": 0.5}, {"name": "grain"}],
            "seed": 2**62,
            "expires_at": "2026-03-01T13:00:00Z",
        }
    )
    request = request_from_line(line, now=NOW)
    assert request.output_format is OutputFormat.WEBP
    assert request.loras == (Lora(name="ink", weight=0.5), Lora(name="grain"))
    assert request.seed == 2**62
    assert request.expires_at == datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert request_topic(Topics("p."), request) == "p.generation.requests.urgent"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": None}, "prompt"),
        ({"user_id": "7"}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"priority": "soon"}, "priority"),
        ({"priority": "unknown"}, "priority: must be one of urgent, high, normal"),
        ({"loras": [{"weight": 1}]}, "loras.0.name"),
        ({"requested_at": "2026-03-01T12:00:00"}, "requested_at: has no timezone"),
        ({"num_inference_steps": 2**31}, "num_inference_steps: does not fit in 32 bits"),
        ({"seed": 2**63}, "seed: does not fit in 64 bits"),
        ({"steps": 30}, "unknown field steps"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        request_from_record(NEEDED | changes, now=NOW)


def test_limits_are_left_to_the_worker() -> None:
    assert request_from_record(NEEDED | {"num_inference_steps": 0}, now=NOW).num_inference_steps == 0


@pytest.mark.parametrize(
    ("line", "reason"), [("{", "not JSON"), ("[]", "not a JSON object"), ("{}", "girl_id: Field required")]
)
def test_a_line_that_is_no_request(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        request_from_line(line, now=NOW)


def test_sizes() -> None:
    assert parse_size("1024x768") == (1024, 768)
    for bad in ("1024", "x", "-1x8", "8x8x8", "8 by 8"):
        with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
            parse_size(bad)


def test_loras() -> None:
    assert parse_lora("ink") == Lora(name="ink", weight=1.0)
    assert parse_lora("ink:-0.5") == Lora(name="ink", weight=-0.5)
    for bad in ("ink:much", ":1", ""):
        with pytest.raises(ValueError, match=r"LoRA|NAME:WEIGHT"):
            parse_lora(bad)
