"""Events as Avro records and back: what is read has exactly the declared types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache, partial
from types import NoneType
from typing import Any, TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

from worker.events.types import Event, LaneWork, Lora, Nested, WorkPartition, from_millis

_R = TypeVar("_R", bound=Event | Nested)
_Convert: TypeAlias = Callable[[Any], Any]


def to_record(event: Event | Nested) -> dict[str, Any]:
    """The event as an Avro record: strings for enums, lists, dicts, aware datetimes."""
    return {f.name: _plain(getattr(event, f.name)) for f in fields(event)}


def from_record(cls: type[_R], record: Mapping[str, Any]) -> _R:
    """The event of an Avro record; fields that `cls` lacks are ignored, absent ones take their default.

    Every field of the event has exactly the type that `cls` declares, down to a list's items: no subclass of it,
    and no naive time. Integers pass for floats; milliseconds since the epoch for times.

    Raises:
        ValueError: a field is of another type, or a time that no datetime can hold; the message names the field.
        TypeError: a field without a default is absent.
    """
    kind: type = cls
    known = {name: _converted(name, convert, record[name]) for name, convert in _converters(kind) if name in record}
    return cls(**known)


def _converted(name: str, convert: _Convert, value: Any) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from None


def _plain(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case Lora() | WorkPartition() | LaneWork():
            return to_record(value)
        case tuple():
            return [_plain(item) for item in value]
        case Mapping():
            return dict(value)
        case datetime() if value.tzinfo is None:
            raise ValueError("an event's times carry their timezone")
        case _:
            return value


@cache
def _converters(cls: type) -> tuple[tuple[str, _Convert], ...]:
    return tuple((name, _converter(hint)) for name, hint in get_type_hints(cls).items())


def _converter(hint: Any) -> _Convert:
    members = [member for member in get_args(hint) if member is not NoneType]
    if NoneType in get_args(hint):
        return partial(_optional, _converter(members[0]))
    if get_origin(hint) is tuple:
        return partial(_tuple, _converter(members[0]))
    if get_origin(hint) is Mapping:
        return partial(_mapping, *members)
    if issubclass(hint, Enum):
        return partial(_symbol, hint)
    if is_dataclass(hint):
        return partial(_nested, cast("type[Nested]", hint))
    return {float: _float, datetime: _instant}.get(hint, partial(_exactly, hint))


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__}, where {kind.__name__} is expected")
    return value


def _float(value: Any) -> float:
    return float(value) if type(value) is int else _exactly(float, value)


def _optional(convert: _Convert, value: Any) -> Any:
    return None if value is None else convert(value)


def _tuple(convert: _Convert, value: Any) -> tuple[Any, ...]:
    return tuple(convert(item) for item in _exactly(list, value))


def _nested(kind: type[Nested], value: Any) -> Nested:
    return from_record(kind, _exactly(dict, value))


def _mapping(keys: type, values: type, value: Any) -> Mapping[Any, Any]:
    return {_exactly(keys, key): _exactly(values, item) for key, item in _exactly(dict, value).items()}


def _symbol(cls: type[Enum], value: Any) -> Enum:
    found = _members(cls).get(_exactly(str, value))
    return cls["UNKNOWN"] if found is None else found


@cache
def _members(cls: type[Enum]) -> Mapping[str, Enum]:
    return {member.value: member for member in cls}


def _instant(value: Any) -> datetime:
    if type(value) is int:
        try:
            return from_millis(value)
        except OverflowError:
            raise ValueError(f"{value} ms since 1970 is in none of the years 1 to 9999") from None
    moment: datetime = _exactly(datetime, value)
    if moment.tzinfo is None:
        raise ValueError("a time without a timezone")
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)
