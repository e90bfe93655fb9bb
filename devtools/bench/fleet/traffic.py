"""Requests at a rate, and what became of them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from confluent_kafka import Producer

from devtools.bench.fleet.simulate import SHARES
from worker.events.headers import TRACEPARENT, request_headers
from worker.events.single_object import SingleObjectCodec
from worker.events.types import GenerationRequest, Lora, timestamp
from worker.job import Lane
from worker.topics import Topics

# A standard picture in the eyes of the policy; its pixels are a few, since nobody looks at them.
STEPS, SIDE = 30, 64
LORAS = 200
PAUSE_S = 0.02


class TrafficError(RuntimeError):
    """Requests were not drawn."""


@dataclass(slots=True)
class Waits:
    """Seconds from sending to the first step by lane, and how many pictures changed the LoRAs of their worker."""

    by_lane: dict[Lane, list[float]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    changes: int = 0
    drawn: int = 0

    def quantile_s(self, lane: Lane, quantile: float) -> float:
        """A quantile of a lane's waits; 0 where there are none."""
        waits = sorted(self.by_lane[lane])
        return waits[min(len(waits) - 1, int(len(waits) * quantile))] if waits else 0.0


class Sender:
    """Sends requests with Poisson arrivals; the same seed gives the same arrivals, lanes and LoRAs."""

    def __init__(self, servers: str, topics: Topics) -> None:
        self._topics = dict(zip(Lane, topics.requests, strict=True))
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 0, "log_level": 2})
        self._codec = SingleObjectCodec()

    def send(self, job_id: str, lane: Lane, loras: str = "", traceparent: str | None = None) -> None:
        """Send one request."""
        request = GenerationRequest(
            job_id=job_id,
            girl_id="bench",
            user_id=1,
            prompt="a lighthouse at dusk",
            width=SIDE,
            height=SIDE,
            num_inference_steps=STEPS,
            loras=(Lora(name=loras, weight=1.0),) if loras else (),
        )
        topic = self._topics[lane]
        value, framing = self._codec.encode(request, topic=topic)
        passed = {} if traceparent is None else {TRACEPARENT: traceparent}
        headers = request_headers(request, source="/bench", now=timestamp(time.time()), passed=passed)
        self._producer.produce(topic, key=job_id.encode(), value=value, headers=[*headers, *framing])
        self._producer.poll(0)

    def run_now(self, jobs: Mapping[str, Lane]) -> None:
        """Send these at once, and wait until all is acknowledged. Raises TrafficError."""
        for job_id, lane in jobs.items():
            self.send(job_id, lane)
        self.flush()

    def run(self, name: str, rate: float, seconds: float, seed: int, *, loras: bool) -> dict[str, tuple[Lane, float]]:
        """Send for so long at `rate` requests a second; returns lane and time of sending by job id."""
        draw = random.Random(seed)
        sets = list(accumulate(1 / (rank + 1) for rank in range(LORAS)))
        sent: dict[str, tuple[Lane, float]] = {}
        began, due = time.monotonic(), 0.0
        while (due := due + draw.expovariate(rate)) < seconds:
            [lane] = draw.choices(tuple(Lane), SHARES)
            [number] = draw.choices(range(LORAS), cum_weights=sets)
            time.sleep(max(0.0, began + due - time.monotonic()))
            job_id = f"{name}-{len(sent)}"
            sent[job_id] = lane, time.time()
            self.send(job_id, lane, f"lora-{number}" if loras else "")
        self.flush()
        return sent

    def flush(self) -> None:
        """Wait until all is acknowledged. Raises TrafficError."""
        if self._producer.flush(30):
            raise TrafficError("Kafka does not take the requests")


class Begun:
    """The workers' log of jobs that were drawn for the first time, read as it grows."""

    def __init__(self, log: Path) -> None:
        log.touch()
        self._log = log
        self._at = 0

    def wait_for(self, jobs: dict[str, tuple[Lane, float]], timeout_s: float) -> Waits:
        """Wait until all of these jobs have begun. Raises TrafficError."""
        waits, missing, deadline = Waits(), dict(jobs), time.monotonic() + timeout_s
        while missing:
            for job_id, at, changed in self._read():
                if job_id in missing:
                    lane, sent = missing.pop(job_id)
                    waits.by_lane[lane].append(at - sent)
                    waits.changes += changed
                    waits.drawn += 1
            if time.monotonic() > deadline:
                raise TrafficError(f"{len(missing)} of {len(jobs)} requests were not drawn in {timeout_s:.0f} s")
            time.sleep(PAUSE_S)
        return waits

    def _read(self) -> Iterator[tuple[str, float, bool]]:
        with self._log.open("rb") as lines:
            lines.seek(self._at)
            text = lines.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.decode().splitlines():
            job_id, at, changed = line.split()
            yield job_id, float(at), changed == "1"
