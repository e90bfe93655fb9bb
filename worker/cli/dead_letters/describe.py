"""A dead letter as JSON for programs and as text for people."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from worker.cli.dead_letters.letters import Content
from worker.events.dead_letters import DeadLetter
from worker.events.partial import Reading

_REASON_CHARS = 100
_PREVIEW_BYTES = 512
_HEX_ROW = 16


def summary_object(letter: DeadLetter, sent_to: str | None) -> dict[str, Any]:
    """What `list --json` prints of a letter."""
    topic, partition, offset = letter.origin or (None, None, None)
    return {
        "place": place_text(letter),
        "time": time_text(letter.timestamp_ms),
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "original_time": time_text(letter.original_timestamp_ms),
        "key": _text(letter.key),
        "bytes": len(letter.value or b"") if letter.left_out is None else letter.left_out,
        "reason": letter.error,
        "resubmitted_to": sent_to,
    }


def summary_line(letter: DeadLetter, sent_to: str | None) -> Text:
    """What `list` prints of a letter: place, time, origin, key, reason."""
    origin = "unknown origin" if letter.origin is None else "{} {}/{}".format(*letter.origin)
    reason = letter.error if len(letter.error) <= _REASON_CHARS else f"{letter.error[:_REASON_CHARS]}…"
    return Text.assemble(
        (f"{place_text(letter):<10}", "bold"),
        f"{time_text(letter.timestamp_ms) or 'no time':<26}",
        f"{origin}  {_text(letter.key) or 'no key'}  ",
        (reason or "no reason given", "red"),
        *(((f"  sent again to {sent_to}", "green"),) if sent_to else ()),
    )


def full_object(letter: DeadLetter, sent_to: str | None, content: Content, reading: Reading) -> dict[str, Any]:
    """What `show --json` prints: all of a letter, with its bytes in base64."""
    return summary_object(letter, sent_to) | {
        "framing": reading.framing,
        "schema": reading.schema,
        "fields": dict(reading.fields),
        "stopped_at": reading.stopped_at,
        "error_now": reading.error,
        "headers": [[name, _text(value)] for name, value in letter.headers],
        "value_base64": None if content.value is None else base64.b64encode(content.value).decode(),
    }


def full_lines(letter: DeadLetter, sent_to: str | None, content: Content, reading: Reading) -> list[Text]:
    """What `show` prints."""
    about = summary_object(letter, sent_to) | {"framing": reading.framing, "schema": reading.schema}
    lines = [Text.assemble((f"{name.replace('_', ' '):<16}", "dim"), str(v)) for name, v in about.items() if v]
    lines += [Text.assemble(("header          ", "dim"), f"{name}: {_text(value)}") for name, value in letter.headers]
    if reading.fields:
        lines += [Text(), Text("what can be read of it:", style="bold"), Text(fields_text(reading))]
    if reading.event is not None:
        lines.append(Text(f"It is a whole {reading.schema} here and now."))
    elif reading.stopped_at is not None:
        lines.append(Text(f"The field {reading.stopped_at} and those after it cannot be read: {reading.error}"))
    else:
        lines.append(Text(f"It is no event here and now: {reading.error}"))
    return [*lines, Text(), *(Text(line) for line in hex_lines(content.value or b""))]


def fields_text(reading: Reading) -> str:
    """The fields as JSON, laid out for an editor; `resubmit --edited` takes it back."""
    return json.dumps(dict(reading.fields), indent=2, ensure_ascii=False)


def hex_lines(data: bytes) -> list[str]:
    """The first bytes as `xxd` prints them."""
    shown = data[:_PREVIEW_BYTES]
    lines = []
    for at in range(0, len(shown), _HEX_ROW):
        row = shown[at : at + _HEX_ROW]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{at:06x}  {row.hex(' '):<{3 * _HEX_ROW}} {text}")
    return [*lines, f"… {len(data) - len(shown)} bytes more"] if len(data) > len(shown) else lines


def place_text(letter: DeadLetter) -> str:
    """Where the letter lies on its topic: `partition/offset`."""
    return "{}/{}".format(*letter.place)


def time_text(millis: int | None) -> str | None:
    """Milliseconds since the epoch as ISO 8601."""
    try:
        return None if millis is None else datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return str(millis)


def _text(value: bytes | None) -> str | None:
    """Bytes of strangers as text of one line: what is no UTF-8, or would move the cursor, as escapes."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return text if text.isprintable() else text.encode("unicode_escape").decode()
