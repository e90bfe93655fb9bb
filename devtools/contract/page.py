"""`docs/contract.md`: the template with its tables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from devtools.contract.channels import (
    CHANNELS,
    HEADERS,
    dead_letter_headers,
    dead_letter_meaning,
    event_headers,
    single_object_header,
    versions,
)
from worker.errors import ErrorCode
from worker.events.headers import MAX_VALUE_CHARS
from worker.events.schemas import current, file_stem
from worker.events.single_object import SingleObjectCodec
from worker.events.types import JOB_EVENT_TYPES, Event, GenerationRequest
from worker.job import MAX_NAME_CHARS, SAFE_NAME, SCHEDULERS
from worker.presets import PRESETS
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "contract.md"
_TEMPLATE = Path(__file__).with_name("page_template.md")
_RUNBOOK = ROOT / "docs" / "runbook.md"

EXAMPLE: dict[str, Any] = {"job_id": "order-1", "girl_id": "luna", "user_id": 1, "prompt": "a lighthouse at dusk"}

_LIMITS = (
    ("num_inference_steps", "1 to {}", "max_inference_steps"),
    ("guidance_scale", "0 to {:g}", "max_guidance_scale"),
    ("width, height", "a multiple of 8, at least {}", "min_side"),
    ("width, height", "at most {}", "max_side"),
    ("width × height", "at most {:,} pixels", "max_pixels"),
    ("prompt, negative_prompt", "at most {:,} characters; the prompt is not blank", "max_prompt_chars"),
    ("loras", "at most {}, those of a profile included", "max_loras"),
    ("weight of a LoRA", "−{0:g} to {0:g}", "max_lora_weight"),
)
_FIXED_LIMITS = (
    ("affection_level, nsfw_level", "0 to 100"),
    ("seed", "0 to 2^63 − 1, of which the low 32 bits count"),
    ("output_format", "jpeg, webp or png"),
)


def page() -> str:
    """The whole page as Markdown."""
    text = _TEMPLATE.read_text()
    parts = {
        "topics": _topics(), "schemas": _schemas(), "fields": _fields(), "limits": _limits(), "headers": _headers(),
        "errors": _errors(), "dead_letters": _dead_letters(), "required": _required(),
        "id_pattern": SAFE_NAME.pattern, "max_name": str(MAX_NAME_CHARS), "header_chars": str(MAX_VALUE_CHARS),
        "schedulers": _listed(SCHEDULERS), "presets": _listed(PRESETS),
        "retention": str(next(c.retention_days for c in CHANNELS if c.topic.endswith("completed"))),
        "example_json": json.dumps(EXAMPLE), "example_hex": _lines(example_value()),
    }  # fmt: skip
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], text)


def example_value() -> bytes:
    """The example in single-object encoding."""
    request = GenerationRequest(**EXAMPLE)
    return SingleObjectCodec().encode(request, topic="generation.requests.normal")[0]


def _topics() -> str:
    rows = []
    for channel in CHANNELS:
        value = "the original bytes" if channel.event is None else channel.event.__name__
        layout = channel.layout
        kept = f"{channel.retention_days} d, {layout.config['cleanup.policy'].replace(',', ' and ')}"
        direction = "the worker reads" if channel.action == "receive" else "the worker writes"
        rows.append((f"`{channel.topic}`", value, layout.partitions, kept, direction, channel.summary))
    return _table(("topic", "value", "partitions", "retention", "", ""), rows)


def _schemas() -> str:
    rows = []
    for cls in JOB_EVENT_TYPES:
        for schema in versions(cls):
            is_current = schema is current()[cls]
            name = f"[{cls.__name__}](../schemas/{file_stem(cls)}.avsc)" if is_current else f"{cls.__name__}, older"
            number = f"`0x{schema.fingerprint[::-1].hex()}`"
            rows.append((name, number, f"`{single_object_header(schema).hex(' ').upper()}`"))
    return _table(("schema", "CRC-64-AVRO", "the value begins with"), rows)


def _required() -> str:
    fields = current()[GenerationRequest].parsed["fields"]
    names = [f"`{field['name']}`" for field in fields if "default" not in field]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _fields() -> str:
    return "\n\n".join(f"### {cls.__name__}\n\n{_fields_of(cls)}" for cls in JOB_EVENT_TYPES)


def _fields_of(cls: type[Event]) -> str:
    record = json.loads(current()[cls].text)
    rows = []
    for field in record["fields"]:
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        rows.append((f"`{field['name']}`", _type(field["type"]), default, field["doc"]))
    return f"{record['doc']}\n\n{_table(('field', 'type', 'default', ''), rows)}"


def _type(kind: Any) -> str:
    """An Avro type in one cell."""
    match kind:
        case list():
            return " or ".join(_type(member) for member in kind)
        case {"type": "enum", "symbols": symbols}:
            return f"enum: {', '.join(symbols)}"
        case {"type": "array", "items": items}:
            return f"array of {_type(items)}"
        case {"type": "map", "values": values}:
            return f"map of {_type(values)}"
        case {"type": "record", "fields": fields}:
            return f"record ({', '.join(field['name'] + ': ' + _type(field['type']) for field in fields)})"
        case {"logicalType": logical}:
            return str(logical)
        case _:
            return str(kind)


def _limits() -> str:
    rows: list[tuple[object, ...]] = [(fields, limit, "") for fields, limit in _FIXED_LIMITS]
    for fields, text, setting in _LIMITS:
        value = Settings.model_fields[setting].default
        rows.append((fields, text.format(value), f"`{setting.upper()}`"))
    return _table(("field", "limit", "setting"), rows)


def _headers() -> str:
    written = {cls: event_headers(cls) for cls in JOB_EVENT_TYPES}
    short = [cls.__name__.removeprefix("Generation").lower() for cls in JOB_EVENT_TYPES]
    rows = [
        (f"`{name}`", *("x" if name in written[cls] else "" for cls in JOB_EVENT_TYPES), meaning)
        for name, meaning in HEADERS.items()
    ]
    return _table(("header", *short, ""), rows)


def _errors() -> str:
    rows = [(f"`{code}`", "yes" if code.retryable else "no", first_sentence(code)) for code in ErrorCode]
    return _table(("code", "retryable", ""), rows)


def first_sentence(code: ErrorCode) -> str:
    """What the runbook says first about a code; its links are made links from this page."""
    section = _RUNBOOK.read_text().partition(f"\n## {code}\n")[2].strip()
    paragraph = " ".join(section.split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]
    return re.sub(r"\]\(#", "](runbook.md#", sentence)


def _dead_letters() -> str:
    rows = [(f"`{name}`", dead_letter_meaning(name)) for name in dead_letter_headers()]
    return _table(("header", ""), rows)


def _lines(value: bytes) -> str:
    return "\n".join(value[start : start + 32].hex(" ") for start in range(0, len(value), 32))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
