"""The `decode` verb: convert `kcat -f '%R%s'` output to JSON lines, for every event type and either framing."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, BinaryIO, TextIO

import typer

from worker.errors import RegistryUnavailable, UndecodableError
from worker.events.codec import EventCodec, make_codec
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
    """Print events from stdin as JSON lines.

    Usage: kcat -C -e -t TOPIC -f '%R%s' | sdxl-worker decode
    """
    with closing(make_codec(load_settings())) as codec:
        code = decode_stream(sys.stdin.buffer, sys.stdout, sys.stderr, codec, topic=topic)
    raise typer.Exit(code)


def decode_stream(source: BinaryIO, out: TextIO, errors: TextIO, codec: EventCodec, *, topic: str | None = None) -> int:
    """Decode length-prefixed values and return the exit code.

    Each event is written as one JSON line to `out`; a value that cannot be decoded is reported on `errors`.
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
    except (FramingError, RegistryUnavailable) as error:
        code = 1
        print(f"stopped at or after record {index}: {error}", file=errors, flush=True)
    return code


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
    fields = {name: _json_value(value) for name, value in asdict(event).items()}
    return json.dumps({"type": type(event).__name__} | fields, allow_nan=False)


def _json_value(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds")
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [_json_value(item) for item in value]
        case _:
            return value
