"""How values that are made of others are read and passed over, within bounds on depth and on kept items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from worker.events.avro_binary import AvroError, BinaryReader
from worker.events.avro_schema import unqualified

Read: TypeAlias = Callable[[BinaryReader], Any]

# Of an array or map that is kept: an item takes far more memory than the byte that it may come from.
MAX_ITEMS = 1_000


def fail(reason: str, _data: BinaryReader) -> Any:
    """Refuse a value that cannot be read as the reader's type."""
    raise AvroError(reason)


def read_enum(symbols: tuple[str | None, ...], name: str, data: BinaryReader) -> str:
    """A symbol; `symbols` are the reader's, by the writer's order."""
    symbol = symbols[data.read_index(len(symbols))]
    if symbol is None:
        raise AvroError(f"a symbol that {unqualified(name)} does not know")
    return symbol


def read_union(branches: list[Read], data: BinaryReader) -> Any:
    """A value of the branch that the writer chose."""
    data.enter()
    found = branches[data.read_index(len(branches))](data)
    data.leave()
    return found


def read_array(read: Read, data: BinaryReader) -> list[Any]:
    """An array of at most `MAX_ITEMS`."""
    data.enter()
    found: list[Any] = []
    for _ in data.items():
        _check_room(len(found))
        found.append(read(data))
    data.leave()
    return found


def read_map(read: Read, data: BinaryReader) -> dict[str, Any]:
    """A map of at most `MAX_ITEMS` entries."""
    data.enter()
    found: dict[str, Any] = {}
    for _ in data.items():
        _check_room(len(found))
        key = data.read_string()
        found[key] = read(data)
    data.leave()
    return found


def read_record(names: list[str | None], reads: list[Read], data: BinaryReader) -> dict[str, Any]:
    """A record's fields in the writer's order; those whose name is None are passed over."""
    data.enter()
    data.step(len(reads))
    found: dict[str, Any] = {}
    name: str | None = None
    try:
        for name, read in zip(names, reads, strict=True):
            value = read(data)
            if name is not None:
                found[name] = value
    except AvroError as error:
        raise error if name is None else AvroError(f"{name}: {error}") from None
    data.leave()
    return found


def skip_items(skip: Read, data: BinaryReader) -> None:
    """Pass over an array."""
    data.enter()
    for _ in data.skipped_items():
        skip(data)
    data.leave()


def skip_entries(skip: Read, data: BinaryReader) -> None:
    """Pass over a map."""
    data.enter()
    for _ in data.skipped_items():
        data.skip(data.read_long())
        skip(data)
    data.leave()


def skip_record(skips: list[Read], data: BinaryReader) -> None:
    """Pass over a record."""
    data.enter()
    data.step(len(skips))
    for skip in skips:
        skip(data)
    data.leave()


def _check_room(count: int) -> None:
    if count >= MAX_ITEMS:
        raise AvroError(f"more than {MAX_ITEMS} items")
