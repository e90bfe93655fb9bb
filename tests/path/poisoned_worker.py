"""The real worker, but for a prompt that aborts the process at its first step, as a driver's bug would."""

from __future__ import annotations

import os
from typing import Any

from worker.__main__ import main
from worker.engine.pipeline import SdxlModel

POISON = "poison"

_prepare = SdxlModel.prepare


def _poisoned(self: SdxlModel, job: Any, now: float) -> Any:
    if POISON in job.prompt:
        os.abort()
    return _prepare(self, job, now)


if __name__ == "__main__":
    SdxlModel.prepare = _poisoned  # type: ignore[method-assign]
    main()
