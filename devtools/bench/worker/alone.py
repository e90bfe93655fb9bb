"""Run one part by itself, and print its figures."""

from __future__ import annotations

import argparse
import os

from devtools.bench.worker.noise import Summary
from devtools.bench.worker.parts import Measure
from devtools.demo.stage import forget_real_services
from worker.telemetry import logs


def run_alone(measure: Measure) -> None:
    """Measure as many pairs as the command line says (1 if it says nothing), and print a line for each figure."""
    parser = argparse.ArgumentParser(description="Measure one part of `bench worker`.")
    parser.add_argument("pairs", type=int, nargs="?", default=1, help="of each figure")
    pairs = parser.parse_args().pairs
    os.environ["OMP_NUM_THREADS"] = "1"
    forget_real_services()
    logs.configure("ERROR", "auto")
    for key, values in measure(pairs).items():
        summary = Summary.of(values)
        print(f"{key}: {summary.median:.4g} ({summary.low:.4g} to {summary.high:.4g}, {len(values)} values)")
