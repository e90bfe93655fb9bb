"""Whether two requests ask for the same picture. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.events.types import GenerationRequest

# They say when and how soon a picture is wanted, not which one or whose.
_NOT_IN_DIGEST = frozenset({"requested_at", "expires_at", "priority"})


def request_digest(request: GenerationRequest) -> str:
    """SHA-256 in hex over the fields that determine the picture and whose it is.

    A field at its default is left out, so that a field added to the schema later does not make every
    stored request a different one.
    """
    text = json.dumps(_digestible(request), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _digestible(value: object) -> object:
    match value:
        case Enum():
            return value.value
        # 7.0 and 7 are the same guidance scale, whichever client wrote it.
        case float() if value.is_integer():
            return int(value)
        case tuple():
            return [_digestible(item) for item in value]
        case _ if is_dataclass(value):
            return {
                field.name: _digestible(item)
                for field in fields(value)
                if field.name not in _NOT_IN_DIGEST and (item := getattr(value, field.name)) != _default(field)
            }
        case _:
            return value


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()
