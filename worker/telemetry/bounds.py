"""What may stand in a log line: values of bounded length, and exceptions without variables and without foreign text.

A prompt gets into a log in three ways: as a variable of a traceback, as the repr of an object, and quoted by an
exception (`ValueError: could not encode 'a fox'`). None of the three is let through.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, MutableMapping, Sequence
from datetime import date, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from confluent_kafka import KafkaError, KafkaException

from worker.errors import WorkerError

VALUE_CHARS = 1_000
MESSAGE_CHARS = 300
ITEMS = 20
DEPTH = 4
FRAMES = 16
CAUSES = 4
INT_BITS = 64

# Errors whose texts are about the machine or this code and quote no data. ValueError, TypeError, KeyError and whatever
# a library derives from them quote what they were given.
_TRUSTED = (WorkerError, OSError, KafkaException, ImportError, AttributeError, NameError, NotImplementedError)
_TRUSTED_MODULES = frozenset({"botocore", "urllib3", "torch", "stamina"})
# torch raises plain RuntimeErrors; a subclass is somebody else's.
_TRUSTED_EXACTLY = (RuntimeError, MemoryError, RecursionError, SystemError, TimeoutError, BufferError)


def cut(text: str, limit: int = VALUE_CHARS) -> str:
    """The text, cut to `limit` characters and with the number of those left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def printable(value: Any) -> Any:
    """The value, with every character escaped that a terminal would obey."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in value)


def bounded(value: object, depth: int = DEPTH) -> Any:
    """The value as JSON can hold it, of bounded size. An object of unknown kind is named by its type: its repr may
    hold anything.
    """
    match value:
        case None | bool() | float():
            return value
        case Enum():
            return bounded(value.value, depth)
        case str():
            return cut(str(value))
        case int():
            return value if value.bit_length() <= INT_BITS else f"<int of {value.bit_length()} bits>"
        case bytes():
            return f"<{len(value)} bytes>"
        case BaseException():
            return describe(value)
        case KafkaError():
            return cut(value.str(), MESSAGE_CHARS)
        case PurePath() | UUID() | date() | timedelta():
            return cut(str(value))
        case Mapping() if depth:
            pairs = list(value.items())[:ITEMS]
            found = {cut(str(name), 100): bounded(item, depth - 1) for name, item in pairs}
            return found if len(value) <= ITEMS else found | {"…": f"{len(value) - ITEMS} more"}
        case list() | tuple() | set() | frozenset() if depth:
            items = [bounded(item, depth - 1) for item in list(value)[:ITEMS]]
            return items if len(value) <= ITEMS else [*items, f"… {len(value) - ITEMS} more"]
    return f"<{type(value).__name__}>"


def describe(error: BaseException) -> str:
    """The error's kind, with its text where that quotes no data."""
    name = type(error).__name__
    text = message(error)
    return f"{name}: {text}" if text else name


def message(error: BaseException) -> str:
    """The error's text, cut; of an error that may quote data only how long it is."""
    text = _text(error)
    if not text:
        return ""
    trusted = isinstance(error, _TRUSTED) and not isinstance(error, UnicodeError)
    trusted = trusted or type(error) in _TRUSTED_EXACTLY or type(error).__module__.split(".")[0] in _TRUSTED_MODULES
    return cut(text, MESSAGE_CHARS) if trusted else f"({len(text)} characters that may quote a request)"


def _text(error: BaseException) -> str:
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return error.args[0].str()
    try:
        return str(error)
    except Exception:  # a foreign __str__ must not cost the line about it
        return "its text cannot be made"


def chain(error: BaseException) -> list[dict[str, Any]]:
    """The error and what it came of, the innermost frames of each; no variables and no source lines."""
    found: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(found) < CAUSES:
        frames = traceback.extract_tb(current.__traceback__)
        found.append(
            {
                "type": type(current).__name__,
                "message": message(current),
                "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-FRAMES:]],
                "frames_left_out": max(0, len(frames) - FRAMES),
            }
        )
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return found


def as_text(error: BaseException) -> str:
    """`chain` for people."""
    return chain_text(chain(error))


def chain_text(causes: Sequence[Mapping[str, Any]]) -> str:
    """The kind and the places of each error, the outermost error and its innermost place first."""
    lines: list[str] = []
    for number, part in enumerate(causes):
        told = f"{part['type']}: {part['message']}" if part["message"] else part["type"]
        lines.append(f"caused by {told}" if number else told)
        lines += [f"  at {frame}" for frame in reversed(part["frames"])]
    return "\n".join(lines)


def bound_values(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: every value of the line becomes bounded; `exc_info` becomes `exception`."""
    exc_info = line.pop("exc_info", None)
    for name, value in line.items():
        line[name] = bounded(value)
    error = _error_of(exc_info)
    if error is not None:
        line["exception"] = chain(error)
    return line


def _error_of(exc_info: object) -> BaseException | None:
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case None | False:
            return None
    return sys.exc_info()[1]
