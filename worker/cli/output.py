"""Where the verbs write: results on standard output, everything else on standard error."""

from __future__ import annotations

import errno
import json
import select
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

STATE_STYLES = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "dead-letter": "red",
    "missing": "red",
    "running": "cyan",
    "queued": "dim",
}


def note_console() -> Console:
    """For progress and notes: standard error."""
    return Console(stderr=True, highlight=False)


def result_console() -> Console:
    """For results that people read: standard output."""
    return Console(highlight=False)


def json_line(record: Mapping[str, Any]) -> Text:
    """One object as one line."""
    return Text(json.dumps(record))


def print_json(record: Mapping[str, Any]) -> None:
    """One object, one line."""
    print_line(json_line(record))


def state_text(state: str) -> Text:
    """A job's state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def result_line(state: str, job_id: str, rest: str) -> Text:
    """A job's id, its state and what else there is to say."""
    return Text.assemble((job_id, "bold"), " ", state_text(state), *((" ", rest) if rest else ()))


def check_reader() -> None:
    """See that somebody still reads standard output: `watch | head -1` ends with its first line, not its second.

    Raises:
        BrokenPipeError: the other end of the pipe is closed.
    """
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        closed = any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return  # no file, or a system without poll
    if closed:
        raise BrokenPipeError(errno.EPIPE, "nobody reads standard output")


def print_line(line: Text) -> None:
    """One line, however long: nothing may break a URL."""
    if sys.stdout.isatty():
        result_console().print(line, soft_wrap=True)
    else:
        print(line.plain, flush=True)
