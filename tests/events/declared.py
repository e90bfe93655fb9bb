"""Whether an event holds exactly what its class declares, worked out from the annotations alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints


def undeclared(event: Any) -> list[str]:
    """Fields whose value is of another type than the declared one, or beyond what Avro's long can hold."""
    hints = get_type_hints(type(event))
    return [
        f"{field.name}: {getattr(event, field.name)!r}"
        for field in dataclasses.fields(event)
        if not _fits(getattr(event, field.name), hints[field.name])
    ]


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is UnionType or NoneType in get_args(hint):
        return any(_fits(value, member) for member in get_args(hint))
    if get_origin(hint) is tuple:
        return type(value) is tuple and all(_fits(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is Mapping:
        keys, values = get_args(hint)
        return type(value) is dict and all(_fits(k, keys) and _fits(v, values) for k, v in value.items())
    if type(value) is not hint:
        return False
    if hint is datetime:
        return bool(value.utcoffset() == timedelta(0) and value.microsecond % 1_000 == 0)
    if hint is int:
        return bool(-(2**63) <= value < 2**63)
    if hint is str:
        return value.isascii() or bool(value.encode("utf-8", "strict"))
    return issubclass(hint, Enum) or not dataclasses.is_dataclass(hint) or not undeclared(value)
