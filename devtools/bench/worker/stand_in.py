"""`python -m devtools.bench.worker.stand_in`: the whole worker, with a device that sleeps in place of a model.

STAND_IN_S: seconds a picture. STAND_IN_LOG, where it is set: a file that gets the time of day at which each job is
begun, a line each.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from devtools.bench.fleet import device
from worker.app import run
from worker.job import Job
from worker.settings import load_settings


def main() -> int:
    """Run until SIGTERM."""
    with Path(os.environ.get("STAND_IN_LOG", os.devnull)).open("a", buffering=1) as log:

        def on_begun(job: Job, at: float, changed: bool) -> None:
            del changed
            log.write(f"{job.job_id} {at:.6f}\n")

        return run(load_settings(), lambda _: device.loaded(float(os.environ["STAND_IN_S"]), on_begun))


if __name__ == "__main__":
    sys.exit(main())
