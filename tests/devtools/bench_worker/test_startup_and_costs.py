"""What the bench of one worker makes of its log and its counters; it runs itself only in `make bench`."""

from __future__ import annotations

import pytest

from devtools.bench.worker.costs import per_picture
from devtools.bench.worker.startup import stages

S3, FLUSHES = "sdxl_worker_store_request_seconds_count", "sdxl_worker_flushes_total"


def test_the_stages_of_a_start_are_told_by_the_log() -> None:
    log = ['{"event": "starting"}', '{"settings_s": 0.1, "kafka_s": 0.5, "event": "start_times", "level": "info"}']
    assert stages(log) == {"startup_settings_s": 0.1, "startup_kafka_s": 0.5}
    assert stages(log[:1]) == {}


def test_a_picture_costs_what_the_counters_have_grown_by() -> None:
    before = {(S3, "put"): 3.0, (S3, "get"): 10.0, (FLUSHES, "committed"): 5.0, ("other", ""): 1.0}
    after = {(S3, "put"): 33.0, (S3, "get"): 30.0, (S3, "head"): 10.0, (FLUSHES, "committed"): 9.0, ("other", ""): 9.0}
    assert per_picture(before, after, 10) == pytest.approx(
        {"s3_requests_per_picture": 6.0, "s3_puts_per_picture": 3.0, "transactions_per_picture": 0.4}
    )
