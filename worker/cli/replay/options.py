"""The flags of `replay` that say what is meant, as a selection."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import replace

from worker.cli.watch import parse_since
from worker.errors import ErrorCode
from worker.job import Lane
from worker.replay.selection import Selection
from worker.topics import Topics

_NOTHING = Selection()


def make_selection(
    *,
    topics: Topics,
    since: str | None,
    until: str | None,
    names: Sequence[str],
    lanes: Sequence[str],
    partition: int | None,
    offsets: str | None,
    job_ids: Sequence[str],
    failed: bool,
    error_codes: Sequence[str],
    now: float,
) -> Selection | None:
    """What the flags select; None where none of them was given. `now` is in seconds.

    A window without an end ends now, so that a replay that goes on later means the same records.

    Raises:
        ValueError: a flag has the wrong form, or does not go with another.
    """
    selection = Selection(
        lanes=_lanes(topics, names, lanes),
        since_ms=None if since in (None, "beginning") else parse_since(since or "", now=now),
        until_ms=None if until is None else parse_since(until, now=now),
        partition=partition,
        offsets=None if offsets is None else parse_offsets(offsets),
        job_ids=tuple(dict.fromkeys(job_ids)),
        failed=failed or bool(error_codes),
        error_codes=tuple(_code(text) for text in dict.fromkeys(error_codes)),
    )
    if selection.offsets is not None and (partition is None or len(selection.lanes) != 1):
        raise ValueError("--offsets goes with one --partition of one --lane or --topic")
    if partition is not None and partition < 0:
        raise ValueError("--partition is a number from 0")
    if selection.since_ms is not None and selection.until_ms is not None and selection.since_ms >= selection.until_ms:
        raise ValueError("--since is not before --until")
    if selection == _NOTHING and since is None:
        return None
    if selection.until_ms is None and selection.offsets is None and not selection.job_ids:
        selection = replace(selection, until_ms=int(now * 1000))
    return selection


def same_but_for_the_window(one: Selection, other: Selection) -> bool:
    """Whether two selections differ in their times only: `2h` means another moment on every call."""
    return replace(one, since_ms=None, until_ms=None) == replace(other, since_ms=None, until_ms=None)


def parse_offsets(text: str) -> tuple[int, int]:
    """`5-9`, both taken, or `5`.

    Raises:
        ValueError: it has another form.
    """
    found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ValueError(f"{text!r} is not FIRST-LAST, such as 5-9")
    return first, last


def parse_replay_id(text: str | None) -> str:
    """The id given, in a UUID's usual form, or a new one.

    Raises:
        ValueError: it is no UUID.
    """
    if text is None:
        return str(uuid.uuid4())
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError(f"{text!r} is no UUID") from None


def _lanes(topics: Topics, names: Sequence[str], lanes: Sequence[str]) -> tuple[Lane, ...]:
    by_topic = dict(zip(topics.requests, Lane, strict=True))
    unknown = [name for name in names if name not in by_topic]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no request topic; they are {', '.join(by_topic)}")
    chosen = {by_topic[name] for name in names} | {Lane[label.upper()] for label in lanes}
    return tuple(sorted(chosen)) or tuple(Lane)


def _code(text: str) -> ErrorCode:
    try:
        return ErrorCode(text)
    except ValueError:
        raise ValueError(f"{text!r} is no error code; they are {', '.join(ErrorCode)}") from None
