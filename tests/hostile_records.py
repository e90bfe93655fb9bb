"""Hostile records: values, headers and timestamps that a worker must end like any other record.

The outcome of each has the record's key, so a test that sends one under its job id recognises it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.harness import small_request
from worker.events.single_object import SingleObjectCodec
from worker.events.types import Lora

CODEC = SingleObjectCodec()
YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)
DEAD_LETTER, COMPLETED, INVALID = "dead-letter", "completed", "invalid_request"


def encoded(**fields: object) -> bytes:
    """A small request with these fields."""
    value, _ = CODEC.encode(small_request(**fields), topic="t")
    return value


@dataclass(frozen=True, slots=True)
class HostileRecord:
    """`end`: completed, an error code, or dead-letter. `value` gets the job id; `options` are of `produce`."""

    end: str
    value: Callable[[str], bytes | None]
    options: Mapping[str, Any] = field(default_factory=dict)


def _request(end: str, **fields: object) -> HostileRecord:
    return HostileRecord(end, lambda job_id: encoded(job_id=job_id, **fields))


# To be sent with the job id as the key.
HOSTILE_RECORDS: dict[str, HostileRecord] = {
    "no avro": HostileRecord(DEAD_LETTER, lambda _: b"{}"),
    "nothing": HostileRecord(DEAD_LETTER, lambda _: None),
    "no bytes": HostileRecord(DEAD_LETTER, lambda _: b""),
    "a cut request": HostileRecord(DEAD_LETTER, lambda job_id: encoded(job_id=job_id)[:-9]),
    "a large no avro": HostileRecord(DEAD_LETTER, lambda _: b"\xc3\x01" + os.urandom(400_000)),
    "large headers": HostileRecord(
        DEAD_LETTER, lambda _: b"x", {"headers": [(f"h{n}", b"v" * 900) for n in range(400)]}
    ),
    "odd headers": HostileRecord(DEAD_LETTER, lambda _: b"x", {"headers": [("a", None), ("a", b"\xff"), ("", b"")]}),
    "a girl_id of 600 KB": _request(INVALID, girl_id="x" * 600_000),
    "an id that leaves its folder": _request(INVALID, girl_id="../x"),
    "a prompt of 900 KB": _request(INVALID, prompt="x" * 900_000),
    "a long scheduler": _request(INVALID, scheduler="x" * 99_999),
    "a thousand LoRAs": _request(INVALID, loras=tuple(Lora(name=f"l{n}") for n in range(1000))),
    "NaN": _request(INVALID, guidance_scale=float("nan")),
    "a record of 1970": HostileRecord(COMPLETED, lambda job_id: encoded(job_id=job_id), {"timestamp": 1}),
    "requested in the year 1": _request(COMPLETED, requested_at=YEAR_ONE),
    "expired in the year 1": _request("expired", expires_at=YEAR_ONE),
    "a prompt of 8,000 emoji": _request(COMPLETED, prompt="🦊" * 8_000),
}
