"""A writer's schema, ready to read its records as this version's events."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from worker.errors import UndecodableError
from worker.events.avro_binary import AvroError, BinaryReader
from worker.events.avro_resolution import Resolver
from worker.events.avro_schema import Names, Record, parse_record, unqualified
from worker.events.avro_values import Read
from worker.events.conversion import from_record
from worker.events.schemas import current
from worker.events.types import BY_NAME, E, Event


class Writer:
    """What a schema yields. Any schema may be given that Avro resolves to ours, and any bytes.

    Args:
        text: the JSON of a record schema.
        names: types that it refers to; gets its own added.

    Attributes:
        record: the schema.
        name: its own, without a namespace.

    Raises:
        AvroError: it is no schema of a record, or too large a one.
    """

    def __init__(self, text: str, names: Names | None = None) -> None:
        record = parse_record(text, names)
        self.record = record
        self.name = unqualified(record.name)
        self._read = self._resolved(record)

    @property
    def unreadable(self) -> str | None:
        """Why no record of this schema can be read as an event; None where they can be."""
        return self._read if isinstance(self._read, str) else None

    def event(self, data: bytes, start: int) -> Event:
        """The event in `data` from the byte `start` to the end, whichever this writer writes.

        Raises:
            UndecodableError: the bytes are not exactly one event.
        """
        cls = BY_NAME.get(self.name)
        if cls is None:
            raise UndecodableError(f"{self.name} is none of this service's events")
        return self.read(data, start, cls)

    def read(self, data: bytes, start: int, expected: type[E]) -> E:
        """As `event`, of one type."""
        if self.name != expected.__name__:
            raise UndecodableError(f"a {self.name}, where a {expected.__name__} was expected")
        reader = BinaryReader(data, start)
        try:
            if isinstance(self._read, str):
                raise AvroError(self._read)
            event = from_record(expected, self._read(reader))
        except (AvroError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UndecodableError(f"not a valid {self.name}: {error}") from error
        if reader.rest:
            raise UndecodableError(f"{reader.rest} bytes follow the record")
        return event

    def _resolved(self, record: Record) -> Read | str:
        """What reads the record as our event of that name; why there is none."""
        if self.name not in BY_NAME:
            return "none of this service's events"
        try:
            return Resolver().resolve(record, _readers()[self.name])
        except AvroError as error:
            return str(error)
        except RecursionError:
            return "its types refer to each other too deeply"


@cache
def _readers() -> Mapping[str, Record]:
    """Our events' schemas by name."""
    return {cls.__name__: parse_record(schema.text) for cls, schema in current().items()}
