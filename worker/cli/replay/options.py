"""Parse the flags of `replay` that select records."""

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
    """Return what the flags select, or None where none of them was given.

    A window without an end ends at `now`, so that a replay that is continued later selects the same records.

    Args:
        now: the current time in seconds since the epoch.

    Raises:
        ValueError: a flag has the wrong form, or cannot be combined with another.
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
        raise ValueError("--offsets needs one --partition of one --lane or --topic")
    if partition is not None and partition < 0:
        raise ValueError("--partition must not be negative")
    if selection.since_ms is not None and selection.until_ms is not None and selection.since_ms >= selection.until_ms:
        raise ValueError("--since must be before --until")
    if selection == _NOTHING and since is None:
        return None
    if selection.until_ms is None and selection.offsets is None and not selection.job_ids:
        selection = replace(selection, until_ms=int(now * 1000))
    return selection


def same_but_for_the_window(one: Selection, other: Selection) -> bool:
    """Return whether two selections differ at most in their times, since `2h` is another moment on every call."""
    return replace(one, since_ms=None, until_ms=None) == replace(other, since_ms=None, until_ms=None)


def parse_offsets(text: str) -> tuple[int, int]:
    """Parse `5-9` (both included) or `5` into the first and last offset.

    Raises:
        ValueError: the text does not have that form.
    """
    found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ValueError(f"{text!r} is not FIRST-LAST, such as 5-9")
    return first, last


def parse_replay_id(text: str | None) -> str:
    """Return the given replay id as a canonical UUID, or a new one for None.

    Raises:
        ValueError: the text is not a UUID.
    """
    if text is None:
        return str(uuid.uuid4())
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a UUID") from None


def _lanes(topics: Topics, names: Sequence[str], lanes: Sequence[str]) -> tuple[Lane, ...]:
    by_topic = dict(zip(topics.requests, Lane, strict=True))
    unknown = [name for name in names if name not in by_topic]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a request topic; the request topics are {', '.join(by_topic)}")
    chosen = {by_topic[name] for name in names} | {Lane[label.upper()] for label in lanes}
    return tuple(sorted(chosen)) or tuple(Lane)


def _code(text: str) -> ErrorCode:
    try:
        return ErrorCode(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an error code; the error codes are {', '.join(ErrorCode)}") from None
