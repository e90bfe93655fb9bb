"""`python -m tests.chaos`: kill, suspend and drain workers, bounce brokers and stop S3 while results are counted.

The workers are real, but their engines are stand-ins. Exit code 1: a request was lost or ended twice, or another
check failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.chaos.options import Options
from tests.chaos.run import run


def main() -> int:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=defaults.jobs, help="request records")
    parser.add_argument("--workers", type=int, default=defaults.workers)
    parser.add_argument("--dispatchers", type=int, default=defaults.dispatchers, help="between requests and workers")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the requests and the faults")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: what suits them")
    parser.add_argument("--picture-ms", type=float, default=defaults.picture_s * 1000, help="of the stand-in engine")
    parser.add_argument("--toy", type=int, default=0, help="so many of the workers run the real engine on a toy model")
    parser.add_argument("--protocol", choices=("consumer", "classic"), default=defaults.protocol)
    parser.add_argument("--members", choices=("lane", "one"), default=defaults.members, help="a worker's, in its group")
    parser.add_argument("--out", type=Path, default=defaults.out, help="folder of chaos.json and the logs")
    asked = parser.parse_args()
    try:
        options = _options(asked)
    except ValueError as error:
        parser.error(str(error))
    return 0 if run(options)["passed"] else 1


def _options(asked: argparse.Namespace) -> Options:
    """Raises ValueError: they are not usable."""
    return Options(
        jobs=asked.jobs,
        workers=asked.workers,
        dispatchers=asked.dispatchers,
        seed=asked.seed,
        rate=asked.rate,
        picture_s=asked.picture_ms / 1000,
        toy=asked.toy,
        protocol=asked.protocol,
        members=asked.members,
        out=asked.out,
    )


if __name__ == "__main__":
    sys.exit(main())
