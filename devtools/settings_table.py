"""The settings table of the docs, made from `worker/settings/`: `python -m devtools.settings_table` writes it.

A table for each section of the settings. A test holds the page to the code.
"""

from __future__ import annotations

import json
import types
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from worker.settings.content import ContentSettings
from worker.settings.delivery import DeliverySettings
from worker.settings.engine import EngineSettings
from worker.settings.gateway import GatewaySettings
from worker.settings.http_and_logs import HttpAndLogSettings
from worker.settings.kafka import KafkaSettings
from worker.settings.model import ModelSettings
from worker.settings.s3 import S3Settings
from worker.settings.section import Section
from worker.settings.traces import TraceSettings
from worker.settings.webhooks import WebhookSettings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"

_INTRODUCTION = """# Settings

Generated from `worker/settings/` by `python -m devtools.settings_table`; do not edit by hand.

The worker reads its settings once, at the start. They come from these places; the first one that names a setting wins:

1. environment variables, by the names below (upper or lower case);
2. a file `.env` in the working directory;
3. files in the folder `SECRETS_DIR` (default `/run/secrets`, where that exists), one file per setting, named like it.

An empty variable or file counts as unset. A wrong value, or values that contradict each other, stop the start: one line
names the variable, and the exit code is 2. Secrets are never printed.

Any librdkafka property can also be set as `KAFKA_` and its name in upper case with underscores for dots:
`KAFKA_SASL_MECHANISM=PLAIN` sets `sasl.mechanism`. `KAFKA_PROPERTIES` takes several as one JSON object and wins over
single variables.
"""

# By the words that open a section in `.env.example`: the section, and its heading on the page.
SECTIONS: dict[str, tuple[type[Section], str]] = {
    "Kafka": (KafkaSettings, "Kafka"),
    "S3": (S3Settings, "S3"),
    "SDXL": (ModelSettings, "SDXL"),
    "engine": (EngineSettings, "Engine and limits of requests"),
    "content": (ContentSettings, "Profiles and content rules"),
    "delivery": (DeliverySettings, "Delivery"),
    "HTTP and logs": (HttpAndLogSettings, "HTTP and logs"),
    "Webhooks": (WebhookSettings, "Webhooks"),
    "gateway": (GatewaySettings, "Gateway"),
    "Traces": (TraceSettings, "Traces"),
}

_BOUNDS = {"Ge": ("ge", "≥"), "Gt": ("gt", ">"), "Le": ("le", "≤"), "Lt": ("lt", "<")}


def page() -> str:
    """The whole page as Markdown."""
    parts = [_INTRODUCTION]
    for section, heading in SECTIONS.values():
        parts.append(f"\n## {heading}\n\n| variable | default | values | |\n| --- | --- | --- | --- |\n")
        parts.extend(_row(name, field) for name, field in section.model_fields.items())
    return "".join(parts)


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{name.upper()}`", _default(name, field), _values(field), field.description or "")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _default(name: str, field: FieldInfo) -> str:
    if name == "worker_id":  # of the machine that runs this
        return "the host's name"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", {}):
        return ""
    if isinstance(value, dict):
        return f"`{json.dumps(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(field: FieldInfo) -> str:
    kind = _without_none(field.annotation)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is dict:
        return "JSON"
    if issubclass(kind, StrEnum):
        return ", ".join(f"`{value}`" for value in kind)
    names = {bool: "`true`, `false`", int: "integer", float: "number", str: "text", Path: "path", SecretStr: "secret"}
    bounds = " and ".join(bound for bound in map(_bound, field.metadata) if bound)
    return f"{names[kind]} {bounds}".strip()


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        [kind] = [member for member in get_args(kind) if member is not type(None)]
    return kind


def _bound(constraint: object) -> str:
    name = type(constraint).__name__
    if name not in _BOUNDS:
        return ""
    attribute, sign = _BOUNDS[name]
    return f"{sign} {getattr(constraint, attribute)}"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
