"""The demo as a new user runs it, with real processes and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
EVENT_TOPICS = {"generation.completed": 12, "generation.failed": 1, "generation.dead-letter": 1}


@pytest.mark.timeout(240)
def test_the_demo_leaves_twelve_pictures_and_a_page(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    hostile = {"KAFKA_BOOTSTRAP_SERVERS": "192.0.2.1:9092", "KAFKA_SASL_MECHANISM": "PLAIN"}
    done = subprocess.run(
        [sys.executable, "-m", "worker", "demo", "--out", str(out), "--timeout", "150"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | hostile,
        capture_output=True,
        text=True,
        timeout=230,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 completed, 1 failed, 1 dead-lettered" in done.stdout

    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    topics = Counter(event["topic"] for event in events)
    assert {topic: topics[topic] for topic in EVENT_TOPICS} == EVENT_TOPICS
    completed = [event["event"] for event in events if event["topic"] == "generation.completed"]
    for event in completed:
        [picture] = (out / "pictures").glob(f"{event['job_id']}.[jpw]*[gp]")
        with Image.open(picture) as image:
            assert image.size == (event["width"], event["height"])
            assert image.format == event["output_format"].upper()
        assert picture.stat().st_size == event["byte_count"]
        manifest = json.loads((out / "pictures" / f"{event['job_id']}.json").read_text())
        assert manifest["job_id"] == event["job_id"]
    page = (out / "index.html").read_text()
    assert page.count('<article class="card">') == 12
    assert page.count('<article class="reject">') == 2
    assert "loop_died" not in (out / "worker.log").read_text()
