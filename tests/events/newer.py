"""A request schema of a newer writer: an added field of every kind, and a symbol that this version does not know."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from fastavro import schemaless_writer

from worker.events.schemas import current, parse
from worker.events.types import GenerationRequest

_ADDED = [
    {"name": "upscale", "type": "int", "default": 1},
    {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
    {"name": "style", "type": ["null", {"type": "map", "values": "double"}], "default": None},
    {"name": "note", "type": "string", "default": ""},
]


def newer_request_schema() -> str:
    schema = json.loads(current()[GenerationRequest].text)
    priority = next(f for f in schema["fields"] if f["name"] == "priority")
    priority["type"]["symbols"].append("immediate")
    schema["fields"] = [_ADDED[0], *schema["fields"], *_ADDED[1:]]
    return json.dumps(schema)


NEWER_RECORD: dict[str, Any] = {
    "upscale": 2,
    "job_id": "job-1",
    "girl_id": "anna",
    "user_id": 7,
    "prompt": "a portrait",
    "priority": "immediate",
    "tags": ["a", "b"],
    "style": {"ink": 0.5},
    "note": "added last",
}


def newer_request_body() -> bytes:
    buffer = BytesIO()
    schemaless_writer(buffer, parse(newer_request_schema()).parsed, NEWER_RECORD)
    return buffer.getvalue()
