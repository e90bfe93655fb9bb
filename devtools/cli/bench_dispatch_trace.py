"""`bench dispatch-trace`: an urgent request's way through a dispatcher."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from worker.cli.output import note_console, result_console


def dispatch_trace() -> None:
    """Print the trace of an urgent request through a dispatcher to its first step.

    On a real local Kafka: a dispatcher and two workers without GPU and S3, which
    draw normal requests when the urgent one comes. The spans are those that any
    OpenTelemetry endpoint gets; `denoise` begins with the first step.
    """
    from devtools.bench.fleet.trace import HEADING, trace

    with TemporaryDirectory(prefix="bench-trace-") as folder, note_console().status("starting Kafka") as note:
        steps = trace(Path(folder), note.update)
    console = result_console()
    console.print(HEADING)
    for step in steps:
        console.print(step.line, soft_wrap=True, highlight=False, markup=False)
