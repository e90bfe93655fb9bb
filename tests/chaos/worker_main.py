"""`python -m tests.chaos.worker_main`: the real worker, which also logs the pictures that its engine makes.

With `CHAOS_ROLE=dispatcher`: the real dispatcher.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests.chaos import one_member, stand_in, trace
from tests.chaos.roles import DISPATCHER
from worker import app
from worker.dispatch import start
from worker.engine_interface import EngineHooks
from worker.errors import StartupError
from worker.picture import Picture
from worker.settings import Settings, load_settings

EXIT_CANNOT_START = 2


def load(settings: Settings) -> app.LoadedEngine:
    """The engine that the environment asks for, writing down every picture."""
    if os.environ["CHAOS_ENGINE"] == "toy":
        loaded = app.load_engine(settings)
    else:
        long_pictures = "CHAOS_LONG_PICTURES" in os.environ
        loaded = stand_in.load(settings, float(os.environ["CHAOS_PICTURE_S"]), long_pictures=long_pictures)
    work_log = Path(os.environ["CHAOS_WORK_LOG"])
    return replace(loaded, make_engine=lambda hooks: loaded.make_engine(_written_down(hooks, work_log)))


def _written_down(hooks: EngineHooks, work_log: Path) -> EngineHooks:
    # Unbuffered: a SIGKILL must not take lines with it.
    log = work_log.open("ab", buffering=0)

    def on_pixels(picture: Picture) -> None:
        origin = picture.job.origin
        log.write(f"{time.time():.4f} {origin.topic} {origin.partition} {origin.offset}\n".encode())
        hooks.on_pixels(picture)

    return replace(hooks, on_pixels=on_pixels)


def main() -> int:
    trace.install(Path(os.environ["CHAOS_TRACE"]))
    if os.environ.get("CHAOS_MEMBERS") == "one":
        one_member.install()
    try:
        if os.environ.get("CHAOS_ROLE") == DISPATCHER:
            return start.run(load_settings())
        return app.run(load_settings(), load)
    except StartupError as error:
        print(error, file=sys.stderr)
        return EXIT_CANNOT_START


if __name__ == "__main__":
    sys.exit(main())
