"""The settings table of the docs, made from `worker/settings.py`: `python -m devtools.settings_table` writes it.

The groups are the comments that stand over the fields there. A test holds the page to the code.
"""

from __future__ import annotations

import ast
import json
import types
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"

_INTRODUCTION = """# Settings

Generated from `worker/settings.py` by `python -m devtools.settings_table`; do not edit by hand.

The worker reads its settings once, at the start. They come from these places; the first one that names a setting wins:

1. environment variables, by the names below (upper or lower case);
2. a file `.env` in the working directory;
3. files in the folder `SECRETS_DIR` (default `/run/secrets`, where that exists), one file per setting, named like it.

An empty variable counts as unset. A wrong value, or values that contradict each other, stop the start: one line names
the variable, and the exit code is 2. Secrets are never printed.

Any librdkafka property can also be set as `KAFKA_` and its name in upper case with underscores for dots:
`KAFKA_SASL_MECHANISM=PLAIN` sets `sasl.mechanism`. `KAFKA_PROPERTIES` takes several as one JSON object and wins over
single variables.
"""

# `group_of` finds the comment above a field; these are the headings for them.
_HEADINGS = {
    "Kafka": "Kafka",
    "S3": "S3",
    "SDXL": "SDXL",
    "engine": "Engine and limits of requests",
    "content": "Profiles and content rules",
    "delivery": "Delivery",
    "HTTP and logs": "HTTP and logs",
    "gateway": "Gateway",
    "Traces": "Traces",
}

_BOUNDS = {"Ge": ("ge", "≥"), "Gt": ("gt", ">"), "Le": ("le", "≤"), "Lt": ("lt", "<")}


def page() -> str:
    """The whole page as Markdown."""
    groups = group_of((ROOT / "worker" / "settings.py").read_text())
    parts, current = [_INTRODUCTION], ""
    for name, field in Settings.model_fields.items():
        if groups[name] != current:
            current = groups[name]
            heading = _HEADINGS.get(current, current)
            parts.append(f"\n## {heading}\n\n| variable | default | values | |\n| --- | --- | --- | --- |\n")
        parts.append(_row(name, field))
    return "".join(parts)


def group_of(source: str) -> dict[str, str]:
    """The comment line that opens each field's group, up to its first full stop, by the field's name."""
    lines = source.splitlines()
    [settings] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    groups, current = {}, ""
    for node in settings.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, before = lines[node.lineno - 2].strip(), lines[node.lineno - 3].strip()
            if above.startswith("# ") and not before:
                current = above.removeprefix("# ").partition(".")[0]
            groups[node.target.id] = current
    return groups


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
