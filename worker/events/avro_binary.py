"""Avro's binary encoding, read strictly and with bounded work.

The bytes and the schema that they are read by come from strangers, so every read is checked: against the end of
the record, against the range of its type, and against a bound on depth and on steps, since a few bytes of a
recursive type, or an array whose items take no bytes, could otherwise ask for endless work.
https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

# Containers within containers; a level costs a few Python frames, of which there are a thousand.
MAX_DEPTH = 64
# Items of arrays and maps, and fields of records; a step takes some microseconds at most.
MAX_STEPS = 100_000

_MAX_VARINT_BYTES = 10


class AvroError(ValueError):
    """The schema or the bytes are not Avro, or ask for more work than is done for one record."""


class BinaryReader:
    """One record's bytes, and a place in them. Every method raises AvroError where the bytes do not fit."""

    __slots__ = ("_at", "_data", "_depth", "_steps")

    def __init__(self, data: bytes, start: int = 0) -> None:
        self._data = data
        self._at = start
        self._depth = 0
        self._steps = 0

    @property
    def rest(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._at

    def enter(self) -> None:
        """Begin a record, array, map or union; `leave` ends it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise AvroError(f"nested more than {MAX_DEPTH} deep")

    def leave(self) -> None:
        self._depth -= 1

    def step(self, count: int = 1) -> None:
        """Account for work that may take no bytes."""
        self._steps += count
        if self._steps > MAX_STEPS:
            raise AvroError(f"more than {MAX_STEPS} values in one record")

    def read_null(self) -> None:
        """Takes no bytes."""

    def read_boolean(self) -> bool:
        byte = self.take(1)
        if byte not in (b"\x00", b"\x01"):
            raise AvroError(f"the byte {byte.hex()} is no boolean")
        return byte == b"\x01"

    def read_long(self) -> int:
        """A zigzag varint of at most 64 bits."""
        data, at = self._data, self._at
        number = shift = 0
        for byte in data[at : at + _MAX_VARINT_BYTES]:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if number >= 1 << 64:
                    break
                self._at = at + shift // 7
                return (number >> 1) ^ -(number & 1)
        if shift < 7 * _MAX_VARINT_BYTES:
            raise AvroError("the value ends within a number")
        raise AvroError("a number of more than 64 bits")

    def read_int(self) -> int:
        """A zigzag varint of at most 32 bits."""
        number = self.read_long()
        if not -(1 << 31) <= number < 1 << 31:
            raise AvroError(f"{number} is no 32-bit int")
        return number

    def read_float(self) -> float:
        return float(_FLOAT.unpack(self.take(4))[0])

    def read_double(self) -> float:
        return float(_DOUBLE.unpack(self.take(8))[0])

    def read_string(self) -> str:
        """Strict UTF-8; AvroError where it is not, surrogates included."""
        data = self.read_bytes()
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise AvroError(f"text that is not UTF-8: {error.reason} at byte {error.start}") from None

    def read_bytes(self) -> bytes:
        return self.take(self.read_long())

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        start = self._at
        self.skip(size)
        return self._data[start : self._at]

    def skip(self, size: int) -> None:
        if not 0 <= size <= self.rest:
            raise AvroError(f"{size} bytes wanted, {self.rest} left")
        self._at += size

    def read_index(self, count: int) -> int:
        """The place of a union's branch or an enum's symbol among `count`."""
        number = self.read_long()
        if not 0 <= number < count:
            raise AvroError(f"choice {number} of {count}")
        return number

    def items(self) -> Iterator[None]:
        """One turn for each item of an array or a map; the caller reads it."""
        while count := self.read_long():
            if count < 0:
                count = -count
                self.read_long()  # the block's size in bytes
            for _ in range(count):
                self.step()
                yield

    def skipped_items(self) -> Iterator[None]:
        """As `items`, but blocks that tell their size in bytes are passed over."""
        while count := self.read_long():
            if count < 0:
                self.step()
                self.skip(self.read_long())
                continue
            for _ in range(count):
                self.step()
                yield


_FLOAT = struct.Struct("<f")
_DOUBLE = struct.Struct("<d")
