"""`python -m devtools.bench.worker.startup`: from the start of a worker's process until it is ready, without a model.

All but the model is real: imports, settings, the check of the bucket, that of the cluster, and joining the group.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from itertools import count

from devtools.bench.worker.alone import run_alone
from devtools.bench.worker.one_worker import OneWorker
from devtools.bench.worker.servers import servers

TIMEOUT_S = 120.0
_LAPS = "start_times"

_numbers = count()


def measure(repeats: int) -> dict[str, list[float]]:
    """Return the seconds until ready, and those of the stages that the worker's log tells."""
    found: dict[str, list[float]] = {}
    with servers() as place:
        # Once without counting, so that files and the group are where they are on a machine that runs workers.
        for turn in range(repeats + 1):
            worker = OneWorker(place, f"startup-{next(_numbers)}", picture_s=0.44)
            began = time.monotonic()
            worker.child.start()
            try:
                worker.child.wait_until(worker.is_ready, TIMEOUT_S)
                took = {"startup_s": time.monotonic() - began}
            finally:
                worker.stop()
            if turn:
                for key, value in (took | stages(worker.log.read_text().splitlines())).items():
                    found.setdefault(key, []).append(value)
    return found


def stages(log: Iterable[str]) -> dict[str, float]:
    """The seconds of each stage of the start, by the worker's log in JSON lines."""
    for line in log:
        if f'"{_LAPS}"' in line:
            told = json.loads(line)
            return {f"startup_{name}": value for name, value in told.items() if name.endswith("_s")}
    return {}


if __name__ == "__main__":
    run_alone(measure)
