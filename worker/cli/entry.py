"""The process around the command line: its streams, its arguments, and its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from worker.cli.exits import INTERRUPTED, WRONG


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _open_closed_streams()
    _accept_every_character()
    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:
        # While the verbs were being imported.
        code = INTERRUPTED
    if code == INTERRUPTED:
        # A thread may be inside librdkafka, or a client may want to take leave of a broker that is not there: a person
        # who pressed Ctrl-C waits for neither.
        os._exit(code)
    sys.exit(code)


def _run(given: Sequence[str]) -> int:
    # diffusers and transformers tell on import what they would like to have installed too.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        arguments = [_as_utf8(number, argument) for number, argument in enumerate(given, 1)]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    from worker.cli import app

    try:
        app(arguments, prog_name="sdxl-worker")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _as_utf8(number: int, argument: str) -> str:
    """The argument as UTF-8, whatever the locale made of its bytes. Raises ValueError: it is none."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeDecodeError:
        raise ValueError(f"argument {number} is not UTF-8") from None


def _open_closed_streams() -> None:
    """Open /dev/null in the place of standard streams that the caller has closed (`2>&-`).

    Else the next socket or file would get the number 1 or 2, and what C libraries print would end up in it; and Python
    prints what is meant for a missing stderr on stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _accept_every_character() -> None:
    """Text that the terminal's encoding lacks (`LANG=C`, PYTHONIOENCODING=ascii) is escaped, and never an error."""
    for stream in (sys.stdout, sys.stderr):
        _escape(stream)


def _escape(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
