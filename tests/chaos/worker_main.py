"""`python -m tests.chaos.worker_main`: the real worker, which also logs the pictures that its engine makes."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos import stand_in, trace
from worker import app
from worker.delivery.manifest import ModelInfo
from worker.errors import StartupError
from worker.job import Failure, Hooks, Picture
from worker.settings import Settings, load_settings

EXIT_CANNOT_START = 2


def load(settings: Settings) -> tuple[app.MakeEngine, ModelInfo, dict[str, Any]]:
    """The engine that the environment asks for, writing down every picture."""
    if os.environ["CHAOS_ENGINE"] == "toy":
        make, info, facts = app.load_engine(settings)
    else:
        make, info, facts = stand_in.load(settings, float(os.environ["CHAOS_PICTURE_S"]))
    work_log = Path(os.environ["CHAOS_WORK_LOG"])
    return lambda hooks: make(_written_down(hooks, work_log)), info, facts


def _written_down(hooks: Hooks, work_log: Path) -> Hooks:
    # Unbuffered: a SIGKILL must not take lines with it.
    log = work_log.open("ab", buffering=0)

    def ended(result: Picture | Failure) -> None:
        if isinstance(result, Picture):
            origin = result.job.origin
            log.write(f"{time.time():.4f} {origin.topic} {origin.partition} {origin.offset}\n".encode())
        hooks.ended(result)

    return replace(hooks, ended=ended)


def main() -> int:
    trace.install(Path(os.environ["CHAOS_TRACE"]))
    try:
        return app.run(load_settings(), load)
    except StartupError as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_START


if __name__ == "__main__":
    sys.exit(main())
