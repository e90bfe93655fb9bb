"""`python -m devtools.bench.worker.profile`: where the loop's time goes, as a flame graph and as shares.

py-spy samples this project's worker while it works through a backlog on the demo model. On Linux, sampling another
process needs root or CAP_SYS_PTRACE.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from threading import Thread

from devtools.bench.worker.contestant import Contestant
from devtools.bench.worker.efficiency import fresh, start
from devtools.bench.worker.site import site
from devtools.demo.stage import forget_real_services

SVG = Path("docs/images/worker-flame.svg")
SAMPLES_PER_S = 100
SECONDS, ROWS, PICTURES = 15, 4, 64
# What the engine's thread does, by a frame that tells it; the first that stands in a stack counts.
PHASES = {
    "UNet": "_predict (worker/engine/denoise.py",
    "update of the latents": "worker/engine/batched_sampler.py",
    "prompts": "_encode (worker/engine/pipeline.py",
    "decode": "_decode_one (worker/engine/loop.py",
    "choice of rows": "choose (worker/engine/schedule.py",
    "the rest of a step": "tick (worker/engine/loop.py",
}
OTHER_THREADS = "other threads"


def shares(stacks: Iterable[str]) -> dict[str, float]:
    """Return the shares of the samples by phase, of the engine's thread and of all others together.

    Args:
        stacks: lines of py-spy's raw format: frames separated by semicolons, then the number of samples.
    """
    counts: Counter[str] = Counter()
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        counts[next((name for name, frame in PHASES.items() if frame in stack), OTHER_THREADS)] += int(samples)
    engine = sum(counts[name] for name in PHASES) or 1
    return {name: counts[name] / engine for name in [*PHASES, OTHER_THREADS]}


def record(pid: int, form: str, out: Path) -> None:
    """Sample a process for SECONDS, into a file of py-spy's format `form`."""
    py_spy = Path(sysconfig.get_path("scripts")) / "py-spy"
    how = ["--duration", str(SECONDS), "--rate", str(SAMPLES_PER_S), "--format", form]
    command = [str(py_spy), "record", "--pid", str(pid), "--output", str(out), *how]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sample(worker: Contestant, form: str, out: Path) -> None:
    """Sample a worker that has enough to do."""
    worker.warm(fresh(ROWS))
    backlog = Thread(target=worker.play, args=(fresh(PICTURES),))
    backlog.start()
    record(worker.child.pid, form, out)
    backlog.join()


def main(svg: Path) -> None:
    """Write the flame graph, and print the shares."""
    forget_real_services()
    svg.parent.mkdir(parents=True, exist_ok=True)
    with site() as place:
        worker = start(place, ROWS)
        raw = place.folder / "stacks.txt"
        sample(worker, "raw", raw)
        sample(worker, "flamegraph", svg)
        for name, share in shares(raw.read_text().splitlines()).items():
            print(f"{name}: {share:.1%}")
    print(svg, file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sample the worker's loop.")
    parser.add_argument("--svg", type=Path, default=SVG, help="file for the flame graph")
    main(parser.parse_args().svg)
