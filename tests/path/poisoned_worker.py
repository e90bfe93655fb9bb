"""`python -m tests.path.poisoned_worker run`: the real worker, but one prompt aborts the process at its first step.

So would a bug of a driver.
"""

from __future__ import annotations

import os

from worker.__main__ import main
from worker.engine.pipeline import SdxlModel
from worker.job import Job

prepare = SdxlModel.prepare


def poisoned(model: SdxlModel, job: Job, now: float) -> object:
    """Abort at the prompt, else prepare."""
    if "poison" in job.prompt:
        os.abort()
    return prepare(model, job, now)


if __name__ == "__main__":
    SdxlModel.prepare = poisoned  # type: ignore[method-assign, assignment]
    main()
