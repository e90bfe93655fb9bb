"""One urgent request through a dispatcher to its first step, while all workers draw: its spans, as text.

Everything is as in `measured`, with two workers. The spans are those that any OTLP endpoint gets.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.bench.fleet.site import Site, broker, site
from devtools.bench.fleet.traffic import Begun, Sender, TrafficError
from devtools.local.otlp_collector import Collector, attributes
from worker.events.headers import TraceContext
from worker.job import Lane

WORKERS = 2
PICTURE_S = 1.0
# More than the workers hold, so that some wait in the dispatcher.
NORMAL_JOBS = 6
TIMEOUT_S = 120.0
PAUSE_S = 0.1
JOB = "urgent"
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Step:
    """Something that took time on the way of a request, in seconds since it was produced."""

    at_s: float
    took_s: float
    name: str
    depth: int = 0
    detail: str = ""

    @property
    def line(self) -> str:
        """As text: milliseconds since the request, milliseconds that it took, what it was."""
        name = "  " * self.depth + self.name
        return f"{self.at_s * 1000:9.1f} {self.took_s * 1000:9.1f}  {name:<40} {self.detail}".rstrip()


HEADING = f"{'at ms':>9} {'took ms':>9}"


def trace(folder: Path, note: Callable[[str], None]) -> list[Step]:
    """Run the fleet, and return the steps of the urgent request in order of their begin. Raises TrafficError."""
    with broker(folder) as servers, Collector() as collector, site(servers, "trace", folder, 2 * WORKERS) as place:
        place.settings.update({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"})
        note("starting a dispatcher and two workers")
        begun, sender = _fleet(place)
        note("an urgent request while both draw")
        now = time.time()
        sender.run_now({f"normal-{number}": Lane.NORMAL for number in range(NORMAL_JOBS)})
        begun.wait_for({f"normal-{number}": (Lane.NORMAL, now) for number in range(WORKERS)}, TIMEOUT_S)
        context = TraceContext(secrets.token_hex(16), secrets.token_hex(8), _SAMPLED)
        produced_at = time.time()
        sender.send(JOB, Lane.URGENT, traceparent=str(context))
        sender.flush()
        return steps(_await_spans(collector, context.trace_id), produced_at)


def _fleet(place: Site) -> tuple[Begun, Sender]:
    log = place.folder / "begun.log"
    begun, sender = Begun(log), Sender(place.servers, place.topics)
    place.dispatcher("dispatcher")
    place.workers(WORKERS, PICTURE_S, log, behind_dispatchers=True)
    # A request of each lane for each worker, so that none has its first one to come.
    first = {f"first-{lane.label}-{number}": lane for lane in Lane for number in range(WORKERS)}
    now = time.time()
    sender.run_now(first)
    begun.wait_for({job: (lane, now) for job, lane in first.items()}, TIMEOUT_S)
    return begun, sender


def _await_spans(collector: Collector, trace_id: str) -> list[Any]:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        spans = [span for span in collector.spans if span.trace_id.hex() == trace_id]
        if {span.name.split()[0] for span in spans} >= {"dispatch", "process"}:
            return spans
        if time.monotonic() > deadline:
            raise TrafficError(f"the spans of the urgent request did not come in {TIMEOUT_S:.0f} s")
        time.sleep(PAUSE_S)


def steps(spans: list[Any], produced_at: float) -> list[Step]:
    """The spans of one request as steps, children below their parents.

    Args:
        spans: as OTLP has them.
        produced_at: when the request was produced, in epoch seconds.
    """
    found = [Step(0.0, 0.0, "request produced")]
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda span: span.start_time_unix_nano):
        if span.parent_span_id not in known:
            found += _with_children(span, spans, produced_at, 0)
    return found


def _with_children(span: Any, spans: list[Any], produced_at: float, depth: int) -> list[Step]:
    began_s, took_s = span.start_time_unix_nano / 1e9, (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    found = [Step(began_s - produced_at, took_s, span.name, depth, _detail(attributes(span)))]
    children = [child for child in spans if child.parent_span_id == span.span_id]
    for child in sorted(children, key=lambda child: child.start_time_unix_nano):
        found += _with_children(child, spans, produced_at, depth + 1)
    return found


def _detail(told: dict[str, Any]) -> str:
    words = []
    if "messaging.destination.partition.id" in told:
        words.append(f"partition {told['messaging.destination.partition.id']}")
    if "messaging.client.id" in told and "messaging.consumer.group.name" in told:
        words.append(f"by {told['messaging.client.id']}")
    if "sdxl_worker.worker_id" in told:
        words.append(f"for {told['sdxl_worker.worker_id']}")
    if "error.type" in told:
        words.append(f"error {told['error.type']}")
    return ", ".join(words)
