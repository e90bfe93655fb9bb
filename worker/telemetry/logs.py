"""Structured logs: JSON lines, or readable lines on a terminal. Prompts and secrets are never logged.

Every line about a job has its job id, topic, partition, offset and trace id. For code that does not know which job it
works for, `within` adds these fields to every line that is logged inside the block.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, suppress
from typing import Any, TextIO, cast

import structlog

from worker.events.headers import passed_through, trace_context
from worker.events.single_object import Headers
from worker.failure import Failure
from worker.job import Job, Origin
from worker.outcome import Outcome
from worker.telemetry import bounds

About = Mapping[str, object]

# The longest valid job id; untrusted text in its place can have any length and is cut.
ID_CHARS = 128
LINE_CHARS = 16_000
MESSAGE_CHARS = 300


def configure(level: str, fmt: str) -> None:
    """Set up structlog for the process; logs go to stderr, because stdout is for results.

    Args:
        fmt: `json`, `console`, or `auto`: console where stderr is a terminal.
    """
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    readable = fmt == "console" or (fmt == "auto" and is_terminal)
    render = _console(colors=is_terminal) if readable else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            bounds.bound_values,
            render,
            cast("structlog.types.Processor", _bound_line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    threading.excepthook = _log_dead_thread


def _log_dead_thread(dead: threading.ExceptHookArgs) -> None:
    """Python's own hook prints a traceback over many lines, with whatever the exception quotes."""
    name = None if dead.thread is None else dead.thread.name
    structlog.get_logger().error("thread_died", thread=name, exc_info=dead.exc_value)


def _console(*, colors: bool) -> structlog.types.Processor:
    readable = structlog.dev.ConsoleRenderer(colors=colors)

    def render(logger: Any, method: str, line: MutableMapping[str, Any]) -> str:
        causes = line.pop("exception", None)
        # A stranger's text must not steer the terminal; JSON escapes by itself.
        line = {name: bounds.printable(value) for name, value in line.items()}
        text = str(readable(logger, method, line))
        return text if causes is None else f"{text}\n{bounds.chain_text(causes)}"

    return render


def _bound_line(_logger: object, _method: str, line: str) -> str:
    """The last bound: a line's number of values has none of its own."""
    if len(line) <= LINE_CHARS:
        return line
    return json.dumps({"event": "log_line_too_long", "characters": len(line), "begins": line[:MESSAGE_CHARS]})


class _Stderr:
    """Standard error as it is at the moment; a log that cannot be written must not end the loop that writes it."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.flush()


def about(job: Job | Failure) -> About:
    """Return the fields of every log line about a job."""
    return _fields(job.request.job_id, job.origin, job.headers)


def about_record(origin: Origin, key: str | bytes | None, headers: Headers) -> About:
    """Return these fields for a record that is not decoded yet; its key is the job id."""
    return _fields(key, origin, passed_through(headers))


def about_outcome(outcome: Outcome) -> About:
    """Return these fields for an outcome that is about to be published."""
    message = outcome.messages[0]
    return about_record(outcome.origin, message.key, message.headers)


def within(fields: About) -> AbstractContextManager[object]:
    """Add `fields` to every line that this thread logs inside the block."""
    return structlog.contextvars.bound_contextvars(**fields)


def _fields(job_id: str | bytes | None, origin: Origin, passed: Mapping[str, str]) -> About:
    text = job_id.decode(errors="replace") if isinstance(job_id, bytes) else job_id
    trace = trace_context(passed)
    return {
        "job_id": None if text is None else text[:ID_CHARS],
        "topic": origin.topic,
        "partition": origin.partition,
        "offset": origin.offset,
        "trace_id": None if trace is None else trace.trace_id,
    }
