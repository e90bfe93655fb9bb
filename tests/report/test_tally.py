"""Counting, merging, rows and the page, without a broker."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.events.strategies import sample
from worker.errors import ErrorCode
from worker.events.types import GenerationCompleted, GenerationFailed, Priority
from worker.report import tally as tally_module
from worker.report.charts import Series, horizontal_bars, lines, stacked_bars
from worker.report.page import page
from worker.report.read import Reading
from worker.report.rows import all_rows, as_csv, as_object, notes, outside_text
from worker.report.tally import OTHERS, Tally
from worker.report.waits import Waits

NOON = datetime(2026, 2, 8, 12, tzinfo=UTC)


def done(job_id: str, **changes: Any) -> GenerationCompleted:
    given = {"girl_id": "luna", "user_id": 1, "priority": Priority.HIGH, "queue_time": 1.0, "gpu_seconds": 9.0}
    event: GenerationCompleted = sample(
        GenerationCompleted, job_id=job_id, **({"completed_at": NOON} | given | changes)
    )
    return event


def lost(job_id: str, **changes: Any) -> GenerationFailed:
    given: dict[str, Any] = {"girl_id": "luna", "priority": Priority.HIGH, "error_code": ErrorCode.EXPIRED}
    event: GenerationFailed = sample(GenerationFailed, job_id=job_id, **({"failed_at": NOON} | given | changes))
    return event


def counted(*events: GenerationCompleted | GenerationFailed, **how: Any) -> Tally:
    found = Tally(**how)
    for event in events:
        found.add(event)
    return found


def test_a_job_counts_once_as_a_picture_and_once_as_a_failure() -> None:
    found = counted(lost("a"), lost("a"), done("a"), done("a"), done("b"), done("c", replay_id="r"))
    assert (found.total.pictures, found.total.failures) == (2, 1)
    assert (found.repeats, found.replayed, found.records) == (2, 1, 6)
    assert found.codes == {"expired": 1}


def test_the_window_is_that_of_the_events_own_time() -> None:
    found = counted(
        done("before", completed_at=NOON - timedelta(seconds=1)),
        done("first"),
        done("after", completed_at=NOON + timedelta(hours=1)),
        since=NOON,
        until=NOON + timedelta(hours=1),
    )
    assert found.total.pictures == 1
    assert found.outside == 2


def test_a_wait_is_held_against_its_lanes_bound() -> None:
    waits = {Priority.URGENT: 2.5, Priority.HIGH: 4.9, Priority.NORMAL: 10.1}
    found = counted(*(done(lane, priority=lane, queue_time=wait) for lane, wait in waits.items()))
    rows = {row.key: row for row in all_rows(found) if row.dimension == "lane"}
    assert [rows[lane].within_bound for lane in ("urgent", "high", "normal")] == [0, 1, 0]
    assert list(rows) == ["urgent", "high", "normal"]
    assert rows["high"].wait_p95_s == pytest.approx(4.9, rel=0.02)


def test_the_cost_is_the_events_else_that_of_the_price_else_unknown() -> None:
    events = (done("told", cost_usd=0.5), done("not told", cost_usd=None))
    assert counted(*events).total.usd_per_picture == 0.5
    assert counted(*events).total.unpriced == 1
    assert counted(*events, hourly_usd=0.4).total.cost_usd == pytest.approx(0.501)
    assert outside_text(counted(done("a", cost_usd=None))) is None
    assert "more than the cheapest" in (outside_text(counted(done("a", cost_usd=0.5))) or "")


def test_parts_merged_are_the_same_as_the_whole() -> None:
    events: list[GenerationCompleted | GenerationFailed] = [
        *(done(f"d{n}", queue_time=n / 10, girl_id=f"g{n % 3}", user_id=n % 5, gpu_seconds=n / 8) for n in range(200)),
        *(lost(f"l{n}") for n in range(5)),
    ]
    whole, first, second = counted(*events), counted(*events[:77]), counted(*events[77:])
    first.merge(second)
    assert as_csv(all_rows(first)) == as_csv(all_rows(whole))
    assert first.codes == whole.codes
    assert first.records == whole.records


def test_memory_is_bounded_and_what_that_costs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_module, "MAX_KEYS", 3)
    monkeypatch.setattr(tally_module, "MAX_REMEMBERED", 4)
    found = counted(*(done(f"job {n}", user_id=n) for n in range(10)))
    assert list(found.cells["user"]) == ["0", "1", "2", OTHERS]
    assert found.cells["user"][OTHERS].pictures == 7
    assert found.unchecked == 6
    told = " ".join(notes(Reading(found)))
    assert OTHERS in told
    assert "repeats are not noticed" in told


def test_quantiles_are_right_within_two_per_cent() -> None:
    waits = Waits()
    for n in range(1, 1001):
        waits.add(n / 100)
    assert waits.quantile(0.5) == pytest.approx(5.0, rel=0.02)
    assert waits.quantile(0.95) == pytest.approx(9.5, rel=0.02)
    assert waits.quantile(1.0) == pytest.approx(10.0, rel=0.02)
    assert Waits().quantile(0.5) is None
    waits.add(float("nan"))
    waits.add(-1.0)
    assert waits.count == 1002


def test_csv_keeps_a_name_from_becoming_a_formula() -> None:
    text = as_csv(all_rows(counted(done("a", girl_id="=HYPERLINK(1)"), done("b", girl_id='x",y'))))
    keys = [row["key"] for row in csv.DictReader(io.StringIO(text)) if row["dimension"] == "girl"]
    assert keys == ["'=HYPERLINK(1)", 'x",y']


def test_no_prompt_is_in_a_report() -> None:
    reading = Reading(counted(done("a", prompt="a secret wish", negative_prompt="a secret fear")))
    everything = f"{page(reading, NOON)}{as_object(reading, list(all_rows(reading.tally)), NOON)}"
    assert "secret" not in everything


def test_the_page_fetches_nothing_and_escapes_what_strangers_wrote() -> None:
    hostile = '<script>alert("1")</script>'
    found = counted(done("a", girl_id=hostile, cost_usd=0.001), lost("b"))
    text = page(Reading(found), NOON)
    assert hostile not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"<script|<link|<img|@import|url\(|src=|href=", text)
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 4
    # No picture at all is no reason to fail.
    assert "Pictures" in page(Reading(Tally()), NOON)


@pytest.mark.parametrize("value", [0.0, 0.003, 0.7, 1.0, 3.0, 9.9, 12_345.0, 9e9])
def test_what_is_drawn_stays_within_the_chart(value: float) -> None:
    days = ["2026-02-08", "2026-02-09"]
    drawn = [
        stacked_bars("t", days, [Series("high", [value, None])]),
        lines("t", days, [Series("high", [value, None])], {"high": 5.0}),
        horizontal_bars("t", {"a": value, "b": value / 2}, "a", "{:g}"),
    ]
    for svg in drawn:
        width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
        assert all(-0.1 <= float(y) <= height + 0.1 for y in re.findall(r' c?y[12]?="(-?[\d.]+)"', svg))
        assert all(-0.1 <= float(x) <= width + 0.1 for x in re.findall(r' c?x[12]?="(-?[\d.]+)"', svg))
        assert all(float(size) >= 0 for size in re.findall(r'(?:width|height)="(-?[\d.]+)"', svg))
