"""Output of the command line: results go to standard output, everything else to standard error."""

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
    """Return a console on standard error, for progress and notes."""
    return Console(stderr=True, highlight=False)


def result_console() -> Console:
    """Return a console on standard output, for results that people read."""
    return Console(highlight=False)


def json_line(record: Mapping[str, Any]) -> Text:
    """Format an object as one line of JSON."""
    return Text(json.dumps(record))


def print_json(record: Mapping[str, Any]) -> None:
    """Print an object as one line of JSON."""
    print_line(json_line(record))


def state_text(state: str) -> Text:
    """Format a job's state in the colour of that state."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def result_line(state: str, job_id: str, rest: str) -> Text:
    """Format one line about a job: its id, its state and, if not empty, further text."""
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
    """Print a line without wrapping it, so that a long URL stays in one piece."""
    if sys.stdout.isatty():
        result_console().print(line, soft_wrap=True)
    else:
        print(line.plain, flush=True)
