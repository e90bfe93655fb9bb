"""A chaos run of 800 requests, with three real brokers, real S3, and real workers with stand-in engines.

Its faults are those of `make chaos`, at the same times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.options import Options
from tests.chaos.run import run
from tests.conftest import require_java

JOBS = 800


@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    require_java()
    # They are sent in the time of 2,000; slower pictures, so that a kill finds as many of them unfinished.
    facts = run(Options(jobs=JOBS, picture_s=0.05, out=tmp_path))
    assert facts["passed"], facts["complaints"]
    assert facts["jobs"] == facts["outcomes"] == JOBS
    assert (facts["lost"], facts["duplicates"], facts["offsets_regressed"]) == (0, 0, 0)
    assert facts["kills"] >= 16
    assert facts["hostile"] == JOBS // 100
    assert facts["s3_answers_delayed"] > 0
    assert facts["s3_requests_refused"] > 0
    assert all(
        facts[fault]
        for fault in (
            *("stalls", "drains", "broker_bounces", "brokers_slow", "s3_outages", "s3_slow", "s3_rights_removed"),
            "status_topic_deleted",
        )
    )
