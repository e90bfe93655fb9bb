"""`python -m devtools.bench.worker.bare`: a loop around diffusers' pipeline, without Kafka and S3, and its driver.

The pipeline is the one that the peers use. It draws a batch per call and keeps nothing: what a worker cannot beat
without drawing otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from devtools.bench.worker.contestant import Ask
from devtools.local.process import die_with_parent


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of the clock and of a processor for a number of pictures."""

    pictures: int
    seconds: float
    cpu_s: float

    def __add__(self, other: Took) -> Took:
        """Both together."""
        return Took(self.pictures + other.pictures, self.seconds + other.seconds, self.cpu_s + other.cpu_s)


class BareLoop:
    """A child process that draws when it is told; it ends with the context."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._child = subprocess.Popen(
            [sys.executable, "-m", "devtools.bench.worker.bare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, **environment},
            preexec_fn=die_with_parent(),
        )

    def draw(self, asked: Sequence[Ask], batch: int) -> Took:
        """Draw these pictures, `batch` of them a call."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        order = {"batch": batch, "asks": [asdict(ask) for ask in asked]}
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            raise RuntimeError(f"the bare loop has ended; its log:\n{self._log.read_text()}")
        return Took(len(asked), *json.loads(answer))

    def __enter__(self) -> Self:
        """The child is running already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the child."""
        self._child.kill()
        self._child.communicate()


def _draw(pipe: Any, asked: Sequence[Mapping[str, Any]]) -> None:
    import torch

    pipe(
        [ask["prompt"] for ask in asked],
        negative_prompt=[""] * len(asked),
        num_inference_steps=asked[0]["steps"],
        guidance_scale=5.0,
        width=asked[0]["side_px"],
        height=asked[0]["side_px"],
        generator=[torch.Generator().manual_seed(ask["seed"]) for ask in asked],
    )


def main() -> None:
    """Draw what standard input asks for, a line each, until it is closed."""
    from devtools.bench.peers.pictures import make_pipeline

    pipe = make_pipeline()
    for line in sys.stdin:
        order = cast("dict[str, Any]", json.loads(line))
        asked, batch = order["asks"], order["batch"]
        began, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(asked), batch):
            _draw(pipe, asked[start : start + batch])
        print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]), flush=True)


if __name__ == "__main__":
    main()
