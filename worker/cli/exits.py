"""How a verb ends: the one place that makes an exception one line on standard error and an exit code.

::

    2     what a person can put right: usage, settings, a file that is not there
    1     what failed: Kafka does not answer, a job failed, a disk is full
    130   Ctrl-C
    141   the reader of standard output went away, as with `| head -1`
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import typer
from confluent_kafka import KafkaError, KafkaException

from worker.client.errors import CommandError
from worker.errors import RegistryUnavailable, StartupError, StoreUnavailable

OK: Final = 0
FAILED: Final = 1
WRONG: Final = 2
INTERRUPTED: Final = 130
READER_GONE: Final = 141

LINE_CHARS = 2_000

# A path that the person named, or a folder that this process was started in.
_WRONG_PATH = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)
_WRONG_KAFKA = frozenset({KafkaError._INVALID_ARG, KafkaError._UNKNOWN_PROTOCOL, KafkaError._CRIT_SYS_RESOURCE})


def exit_code(call: Callable[[], Any]) -> int:
    """Call it; the exit code, once what went wrong is told."""
    try:
        code = _call(call)
        flush_output()
        return code
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _reader_gone()
        return _tell(f"standard output cannot be written: {error.strerror}", FAILED)


def flush_output() -> None:
    """Write out what is buffered while an error can still be told. Raises OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _call(call: Callable[[], Any]) -> int:
    try:
        answer = call()
        return answer if isinstance(answer, int) else OK
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except SystemExit as end:
        # Rich's consoles end so when the reader has gone.
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        raise
    except Exception as error:  # the last resort is here: nothing ends in a traceback
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error), err=True)
            return WRONG
        line, code = explain(error)
        return _tell(line, code, error)


def explain(error: Exception) -> tuple[str, int]:
    """The line and the exit code for an exception of any kind."""
    match error:
        case _ if is_usage(error):
            return _usage(error), WRONG
        case StartupError():
            return str(error), WRONG
        case CommandError() | RegistryUnavailable() | StoreUnavailable():
            return str(error), FAILED
        case KafkaException():
            return _kafka(error)
        case OSError():
            return _file(error)
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"unexpected {told} ({_place(error)}); LOG_LEVEL=debug shows more", FAILED


def is_usage(error: Exception) -> bool:
    """Whether it is one of click's errors, whose classes typer keeps to itself."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage(error: Any) -> str:
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context is not None else ""
    return f"{str(error.format_message()).rstrip('.')}{hint}"


def _kafka(error: KafkaException) -> tuple[str, int]:
    reason = error.args[0] if error.args else None
    if not isinstance(reason, KafkaError):
        return f"Kafka: {error}", FAILED
    if reason.code() in _WRONG_KAFKA:
        return f"Kafka settings: {reason.str()}", WRONG
    return f"Kafka: {reason.str()}", FAILED


def _file(error: OSError) -> tuple[str, int]:
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return f"input or output failed: {reason}", FAILED
    return f"{os.fsdecode(error.filename)}: {reason}", WRONG if error.errno in _WRONG_PATH else FAILED


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "no traceback"


def _tell(line: str, code: int, error: Exception | None = None) -> int:
    """One line, whatever the message holds; with LOG_LEVEL=debug the places of an unexpected error after it."""
    text = " ".join(line.split())
    text = text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]}…"
    out = sys.stderr
    try:
        if out is not None:
            print(f"error: {text}", file=out, flush=True)
            if error is not None and os.environ.get("LOG_LEVEL", "").lower() == "debug":
                from worker.telemetry.bounds import as_text

                print(as_text(error), file=out, flush=True)
    except (OSError, ValueError):
        pass  # nobody listens; the exit code still tells
    return code


def _reader_gone() -> int:
    """Point standard output at nothing, so that Python's own flush at the end cannot fail again."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass  # not a real file, as in a test
    return READER_GONE
