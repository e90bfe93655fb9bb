"""`python -m devtools.autoscaling`: the tables of what a target does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from devtools.autoscaling.one_queue import OneQueue
from devtools.autoscaling.partitions import Partitions
from devtools.autoscaling.policy import LARGE, LARGE_DISPATCH, SMALL, Policy

# Pictures a day, and the policy for them: the rows of docs/capacity.md.
DEMANDS = ((30_000, SMALL), (100_000, LARGE), (300_000, LARGE))
TARGETS = (1.0, 1.25, 2.0, 8.0)
DEMANDS_DISPATCH = ((100_000, LARGE_DISPATCH), (300_000, LARGE_DISPATCH))
TARGETS_DISPATCH = (1.25, 1.5, 2.0, 2.5, 3.0)

HEADER = """\
| pictures a day | target | p95 wait: urgent, high, normal | within 2, 5, 10 s | workers, mean | at most | load, mean |
| ---: | ---: | --- | --- | ---: | ---: | ---: |"""


def row(pictures: int, policy: Policy, target: float, fleet: type[Partitions | OneQueue] = Partitions) -> str:
    """Simulate one demand with one target; a row of the table."""
    seen = fleet(replace(policy, target=target)).run(pictures)
    waits = ", ".join(f"{wait:.1f} s" for wait in seen.waits_s)
    return (
        f"| {pictures:,} | {target:g} | {waits} | {'yes' if seen.keeps_bounds else '**no**'} "
        f"| {seen.mean_workers:.1f} | {max(seen.sizes)} | {seen.load:.0%} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m devtools.autoscaling", description="Simulate what a target of lag per worker does."
    )
    parser.add_argument("--dispatch", action="store_true", help="with a dispatcher: the fleet is one queue")
    parser.add_argument("targets", type=float, nargs="*", help="lag per worker; one row each")
    options = parser.parse_args(arguments)
    print(HEADER)
    demands = DEMANDS_DISPATCH if options.dispatch else DEMANDS
    fleet = OneQueue if options.dispatch else Partitions
    for pictures, policy in demands:
        for target in options.targets or (TARGETS_DISPATCH if options.dispatch else TARGETS):
            print(row(pictures, policy, target, fleet), flush=True)


if __name__ == "__main__":
    main()
