"""What a dispatcher shows of the requests that it holds and of the workers that it knows; the alerts read it."""

from __future__ import annotations

from worker.dispatch.fleet import Fleet
from worker.dispatch.policy import Backlog
from worker.job import Lane
from worker.telemetry import metrics


def show(backlog: Backlog, fleet: Fleet, now_s: float) -> None:
    """Set the gauges; `now_s` is on the clock of the requests' arrivals and of the reports."""
    for lane in Lane:
        metrics.DISPATCH_WAITING.labels(lane.label).set(backlog.waiting(lane))
        metrics.DISPATCH_OLDEST.labels(lane.label).set(backlog.oldest_s(lane, now_s))
    roster = fleet.workers(now_s)
    workers = [roster[name] for name in roster]
    states = {
        "reporting": len(workers),
        "silent": len(fleet.silent(now_s)),
        "refusing": fleet.refusing(now_s),
        "full": sum(not worker.has_room(Lane.NORMAL) for worker in workers),
        "idle": sum(not any(worker.unfinished) for worker in workers),
    }
    for state, count in states.items():
        metrics.DISPATCH_WORKERS.labels(state).set(count)
    seconds = [sum(worker.seconds) for worker in workers] or [0.0]
    metrics.DISPATCH_WORK.labels("least").set(min(seconds))
    metrics.DISPATCH_WORK.labels("most").set(max(seconds))
