"""`python -m devtools.capacity`: the tables for the GPU that the arguments describe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from devtools.capacity.simulated import limits
from devtools.capacity.sizing import Gpu
from devtools.capacity.tables import LIMITS_HEADER, dollars, fleets, limit_rows, savings

DAYS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000)
WORKERS = (2, 4, 8, 13, 128)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the fleets and their dollars, or with --simulate the loads that fleets of some sizes can take."""
    parser = argparse.ArgumentParser(prog="python -m devtools.capacity", description="Size a fleet of workers.")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per picture on an idle GPU (default 3)")
    parser.add_argument("--hourly-usd", type=float, default=0.40, help="price of a GPU hour in dollars (default 0.40)")
    parser.add_argument(
        "--peak", type=float, default=2.0, help="busiest hour as a multiple of the mean, 1 to 2 (default 2)"
    )
    parser.add_argument("days", type=int, nargs="*", default=DAYS, help="pictures per day; one row of the table each")
    parser.add_argument("--short", action="store_true", help="one table: what a dispatcher saves")
    parser.add_argument(
        "--simulate",
        type=int,
        nargs="*",
        metavar="WORKERS",
        help="instead of plans, the highest load of fleets of these sizes, simulated with the dispatcher's policy",
    )
    options = parser.parse_args(arguments)
    if options.simulate is not None:
        print(LIMITS_HEADER)
        for line in limit_rows(limits(workers, options.seconds) for workers in options.simulate or WORKERS):
            print(line, flush=True)
        return
    gpu = Gpu(options.seconds, options.hourly_usd)
    if options.short:
        print(savings(gpu, options.peak, options.days))
        return
    print(fleets(gpu, options.peak, options.days), dollars(gpu, options.peak, options.days), sep="\n\n")


if __name__ == "__main__":
    main()
