"""The `report` verb against a broker: repeats, what cannot be read, and several processes.

The embedded broker finds no offsets by time; `tests/test_topics.py` asks a real one.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.cli.conftest import Kafka, sdxl
from tests.events.strategies import sample
from worker.cli.exits import WRONG
from worker.events.types import GenerationCompleted, GenerationFailed, Priority
from worker.report import read

NOW = datetime.now(UTC)


pytestmark = pytest.mark.usefixtures("filled")


def done(job_id: str, age: timedelta = timedelta(minutes=5), **changes: Any) -> GenerationCompleted:
    given: dict[str, Any] = {"priority": Priority.URGENT, "girl_id": "luna", "queue_time": 0.5, "gpu_seconds": 36.0}
    event: GenerationCompleted = sample(GenerationCompleted, job_id=job_id, completed_at=NOW - age, **(given | changes))
    return event


@pytest.fixture
def filled(kafka: Kafka) -> Kafka:
    """Four pictures of this hour (one twice), one of last week, a failure, and a record that is no event."""
    kafka.publish(*(done(f"job-{n}") for n in range(4)), done("job-0"), done("old", timedelta(days=8)))
    kafka.publish(sample(GenerationFailed, job_id="bad", failed_at=NOW))
    producer = Producer({"bootstrap.servers": kafka.broker.bootstrap_servers})
    producer.produce(kafka.topics.completed, b"not an event", "x")
    assert producer.flush(10) == 0
    return kafka


def test_the_report_as_json() -> None:
    result = sdxl("report", "--since", "beginning", "--json", "--gpu-hourly-usd", "0.5")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    total = told["groups"][-1]
    assert (total["dimension"], total["pictures"], total["failures"]) == ("total", 5, 1)
    assert total["usd_per_picture"] == 0.005
    assert told["counted"] == {"records": 7, "repeats": 1, "replayed": 0, "undecodable": 1}
    assert any("could not be read" in note for note in told["notes"])
    older = json.loads(sdxl("report", "--since", "beginning", "--until", "1h", "--json").stdout)
    assert older["groups"][-1]["pictures"] == 1


def test_several_processes_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    one = sdxl("report", "--since", "beginning", "--csv").stdout
    monkeypatch.setattr(read, "WORTH_PROCESSES", 1)
    monkeypatch.setattr(read, "processors", lambda: 2)
    assert sdxl("report", "--since", "beginning", "--csv").stdout == one
    assert "day," in one


def test_the_table_fits_and_the_page_is_written(tmp_path: Path) -> None:
    result = sdxl("report", "--since", "beginning", columns=80)
    table = [line for line in result.stdout.splitlines() if line.startswith(("lane", "urgent", "girl", "luna"))]
    assert len(table) == 4
    assert all("…" not in line and len(line) <= 80 for line in table)
    assert sdxl("report", "--since", "beginning", "--html", str(tmp_path / "r.html")).exit_code == 0
    assert "luna" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("flags", [("--by", "mood"), ("--since", "soon"), ("--json", "--csv"), ("--until", "30d")])
def test_flags_that_mean_nothing(flags: tuple[str, ...]) -> None:
    assert sdxl("report", *flags).exit_code == WRONG
