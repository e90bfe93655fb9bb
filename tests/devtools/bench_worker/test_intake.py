"""The bench of intake, with few records on librdkafka's own broker. No time is asserted."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest

from devtools.bench.worker import intake, record_watch
from devtools.bench.worker.intake import compare
from devtools.bench.worker.intake_ours import run_ours
from devtools.bench.worker.record_watch import Stopwatch
from devtools.local.embedded import EmbeddedBroker
from worker.topics import Topics

RECORDS = 40
EMBEDDED: Any = {
    "kafka_group_protocol": "classic",
    "kafka_fetch_wait_max_ms": "10",
    "kafka_session_timeout_ms": "6000",
}


def test_each_contestant_takes_every_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "run_ours", partial(run_ours, **EMBEDDED))
    topics = Topics("bench.")
    with EmbeddedBroker() as broker:
        broker.create_topics(topics, intake.PARTITIONS)
        found = compare(broker.bootstrap_servers, topics, RECORDS, repeats=1)
    assert found.keys() >= {"intake_over_raw", "intake_over_faststream"}
    assert all(len(values) == 1 and math.isfinite(values[0]) for values in found.values())


def test_what_comes_before_the_first_record_and_after_the_last_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 10.5, 11.0, 11.5, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    cpu = iter([3.0, 3.5])
    monkeypatch.setattr("time.process_time", lambda: next(cpu))
    watch = Stopwatch(3)
    for _ in range(3):
        watch.tick()
    assert watch.is_over
    assert (watch.cost().cpu_s, watch.cost().wall_s) == (0.25, 0.25)


def test_records_that_do_not_come_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(3)
    monkeypatch.setattr(record_watch, "TIMEOUT_S", -1.0)
    with pytest.raises(TimeoutError, match="0 of 3"):
        Stopwatch(3).wants_more()
    assert watch.wants_more()
