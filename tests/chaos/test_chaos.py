"""A chaos run of 2,000 requests with three real brokers, real S3, and real workers with stand-in engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.options import Options
from tests.chaos.run import run
from tests.conftest import require_java


@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    require_java()
    facts = run(Options(jobs=2000, out=tmp_path))
    assert facts["passed"], facts["complaints"]
    assert facts["jobs"] == 2000
    assert facts["jobs"] - facts["lost_with_log_ends"] <= facts["outcomes"]
    assert (facts["lost"], facts["duplicates"], facts["offsets_regressed"]) == (0, 0, 0)
    assert facts["kills"] >= 16
    assert facts["hostile"] == 20
    assert facts["s3_answers_delayed"] > 0
    assert facts["s3_requests_refused"] > 0
    assert all(
        facts[fault]
        for fault in (
            *("stalls", "drains", "broker_bounces", "brokers_slow", "s3_outages", "s3_slow", "s3_rights_removed"),
            *("rights_removed", "status_topic_deleted", "log_ends_lost"),
        )
    )
