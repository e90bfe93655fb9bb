"""The `decode` verb: convert `kcat -f '%R%s'` output to JSON lines, for every event type and either framing."""

from __future__ import annotations

import base64
import json
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, BinaryIO, TextIO

import typer

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.codec import EventCodec, make_codec
from worker.events.partial import event_fields, read_partly
from worker.events.types import Event
from worker.settings import load_settings

MAX_VALUE_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct(">i")
_NULL = -1


class FramingError(ValueError):
    """The stream is not in `%R%s` format, so the records after this point cannot be separated."""


def decode(
    topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Topic of the records, which some schema registries need.")
    ] = None,
) -> None:
    """Print events from stdin as JSON lines; of what is no event, as much as can be read.

    Usage: kcat -C -e -t TOPIC -f '%R%s' | sdxl-worker decode

    Exit code 1: a record was no event; its line has the type null.
    """
    with closing(make_codec(load_settings())) as codec:
        code = decode_stream(sys.stdin.buffer, sys.stdout, sys.stderr, codec, topic=topic)
    raise typer.Exit(code)


def decode_stream(source: BinaryIO, out: TextIO, errors: TextIO, codec: EventCodec, *, topic: str | None = None) -> int:
    """Decode length-prefixed values and return the exit code.

    Each value is written as one JSON line to `out`; one that is no event is also reported on `errors`, and its line has
    no type and what could be read of it.
    """
    code = 0
    index = 0
    try:
        for index, value in enumerate(read_values(source)):
            try:
                event = None if value is None else codec.decode_any(value, topic=topic, headers=None)
                print("null" if event is None else to_json(event), file=out, flush=True)
            except UndecodableError as error:
                code = 1
                print(f"record {index}: {error}", file=errors, flush=True)
                print(_as_far_as_it_goes(codec, value, topic), file=out, flush=True)
    except (FramingError, RegistryUnavailable) as error:
        code = 1
        print(f"stopped at or after record {index}: {error}", file=errors, flush=True)
    return code


def _as_far_as_it_goes(codec: EventCodec, value: bytes | None, topic: str | None) -> str:
    """A value that is no event, as one line of JSON: its fields up to the first that cannot be read, and its bytes."""
    reading = read_partly(codec, value, topic=topic, headers=None)
    told = {
        "type": None,
        "framing": reading.framing,
        "schema": reading.schema,
        "fields": dict(reading.fields),
        "stopped_at": reading.stopped_at,
        "error": reading.error,
        "value_base64": base64.b64encode(value or b"").decode(),
    }
    return json.dumps(told, allow_nan=False)


def read_values(source: BinaryIO) -> Iterator[bytes | None]:
    """Yield the values in `kcat -f '%R%s'` output: a 32-bit big-endian length (-1 for null), then the bytes.

    Raises:
        FramingError: a length is out of range, or the input ends within a record.
    """
    while prefix := source.read(_LENGTH.size):
        if len(prefix) < _LENGTH.size:
            raise FramingError("the input ends within a length prefix; is it from kcat -f '%R%s'?")
        (length,) = _LENGTH.unpack(prefix)
        if not _NULL <= length <= MAX_VALUE_BYTES:
            raise FramingError(f"impossible record length of {length} bytes; is the input from kcat -f '%R%s'?")
        value = None if length == _NULL else source.read(length)
        if value is not None and len(value) < length:
            raise FramingError(f"the input ends {length - len(value)} bytes before the end of the record")
        yield value


def to_json(event: Event) -> str:
    """Format an event as one line of JSON: type first, times as ISO 8601, NaN and infinity as null."""
    return json.dumps({"type": type(event).__name__} | event_fields(event), allow_nan=False)
