"""What a dispatcher shows, from a backlog and reports."""

from __future__ import annotations

import json
import re

from tests.deploy.test_prometheus import alerts
from tests.deploy.tools import ROOT
from tests.dispatch.test_fleet_view import fleet, report
from worker.dispatch import gauges
from worker.dispatch.fleet import SILENT_S
from worker.dispatch.policy import Backlog, Request
from worker.job import Lane
from worker.telemetry import metrics
from worker.telemetry.exposition import Exposition


def shown() -> dict[tuple[str, str], float]:
    """The dispatcher's samples by metric and label, without the histogram."""
    return {
        (sample.name.removeprefix("sdxl_worker_dispatch_"), "".join(sample.labels.values())): sample.value
        for gauge in (
            metrics.DISPATCH_WAITING, metrics.DISPATCH_OLDEST, metrics.DISPATCH_WORKERS, metrics.DISPATCH_WORK
        )
        for family in gauge.collect()
        for sample in family.samples
    }  # fmt: skip


def test_what_waits_and_for_how_long_by_lane() -> None:
    backlog = Backlog()
    for key, arrived_s, model in (("a", 3.0, None), ("b", 1.0, "other"), ("c", 4.0, None)):
        backlog.add(Request(key, Lane.NORMAL, arrived_s, model=model))
    gauges.show(backlog, fleet(), 5.0)
    found = shown()
    assert found["waiting_requests", "normal"] == 3
    assert found["oldest_seconds", "normal"] == 4.0, "of all models"
    assert found["oldest_seconds", "urgent"] == found["waiting_requests", "urgent"] == 0.0
    gauges.show(Backlog(), fleet(), 6.0)
    assert shown()["oldest_seconds", "normal"] == 0.0, "nothing is old when nothing waits"


def test_workers_that_report_are_full_idle_or_silent() -> None:
    known = fleet()
    known.hear(report("idle"), 10.0)
    known.hear(report("busy", normal=9), 10.0)
    gauges.show(Backlog(), known, 10.0)
    found = shown()
    assert (found["workers", "reporting"], found["workers", "silent"]) == (2, 0)
    assert (found["workers", "idle"], found["workers", "full"]) == (1, 1)
    assert found["work_seconds", "least"] == 0.0
    assert found["work_seconds", "most"] > 0.0
    known.hear(report("leaves", accepts=False), 11.0)
    gauges.show(Backlog(), known, 11.0)
    found = shown()
    assert (found["workers", "refusing"], found["workers", "reporting"]) == (1, 2)
    gauges.show(Backlog(), known, 10.0 + SILENT_S)
    assert shown()["workers", "refusing"] == 1
    gauges.show(Backlog(), known, 11.0 + SILENT_S)
    assert shown()["workers", "refusing"] == 0, "it has gone"
    gauges.show(Backlog(), known, 10.0 + SILENT_S)
    found = shown()
    assert (found["workers", "reporting"], found["workers", "silent"], found["workers", "idle"]) == (0, 2, 0)
    assert found["work_seconds", "most"] == 0.0


def test_what_alerts_and_dashboards_read_is_on_a_dispatchers_page() -> None:
    gauges.show(Backlog(), fleet(), 0.0)
    page = Exposition("dispatch", "sdxl-dispatch", "shop.")
    there = {
        (sample.name, value) for one in page.collect() for sample in one.samples for value in sample.labels.values()
    }
    expressions = [alert["expr"] for alert in alerts()]
    for board in (ROOT / "deploy/grafana/dashboards").glob("*.json"):
        panels = json.loads(board.read_text())["panels"]
        expressions += [target["expr"] for panel in panels for target in panel["targets"]]
    read = {
        (name, label)
        for expression in expressions
        for name, label in re.findall(r'(sdxl_worker_dispatch_\w+)(?:\{\w+="(\w+)"\})?', expression)
    }
    assert {name for name, _ in read} >= {
        "sdxl_worker_dispatch_wait_seconds_count",
        "sdxl_worker_dispatch_work_seconds",
    }
    for name, label in read:
        assert (name, label or "sdxl-dispatch") in there, (name, label)
