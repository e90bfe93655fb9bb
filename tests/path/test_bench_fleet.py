"""`bench fleet --kafka` at a small size: every figure comes from a real broker, dispatchers and workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from devtools.bench.fleet.measured import Plan, measure
from devtools.cli.bench_fleet import _print

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_every_figure_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(workers=2, seconds=1.0, loads=(0.5,), dispatchers=(1,), records=500)
    notes: list[str] = []
    report = measure(plan, tmp_path, notes.append)
    # How high they are depends on the machine.
    assert [fleet["dispatchers"] for fleet in report["fleets"]] == [0, 1]
    assert 0 < report["hop_p50_s"] <= report["hop_p99_s"]
    assert report["dispatch_records_per_s"] > 0
    assert report["lora_changes_share"] > 0
    assert report["fleet_load_at_bounds"] in (0.0, 0.5)
    _print({"simulated": [], "loras": [], "choices_per_cpu_s": {}} | report)
    assert "records a second" in capsys.readouterr().out
    assert "one dispatcher's pace" in notes
