"""Structured logs: JSON lines, or readable lines on a terminal. Prompts and secrets are never logged.

Every line about a job has its job id, topic, partition, offset and trace id. For code that does not know which job it
works for, `within` adds these fields to every line that is logged inside the block.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager

import structlog

from worker.events.headers import passed_through, trace_context
from worker.events.single_object import Headers
from worker.job import Failure, Job, Origin, Outcome

About = Mapping[str, object]

# The longest valid job id; untrusted text in its place can have any length and is cut.
ID_CHARS = 128


def configure(level: str, fmt: str) -> None:
    """Set up structlog for the process; logs go to stderr, because stdout is for results."""
    renderer: structlog.types.Processor
    if fmt == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if fmt == "json" else structlog.dev.set_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


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
