"""With CHECKPOINT_JOBS, a worker that is drained in the middle of a picture hands its latents to the next one."""

from __future__ import annotations

import json
import time
from typing import Any

from tests import scrape
from tests.harness import Client, Site, WorkerProcess, log_lines

STEPS = 80


def counted(worker: WorkerProcess, metric: str) -> float:
    found = scrape.value(worker.get("/metrics")[1], metric)
    assert found is not None, metric
    return found


def pixels(site: Site, job_id: str) -> str:
    client, bucket = site.store.client(), site.store.bucket
    manifest = json.load(client.get_object(Bucket=bucket, Key=f"manifests/luna/{job_id}.json")["Body"])
    return str(manifest["picture"]["pixel_sha256"])


def test_the_next_worker_goes_on_from_the_step_that_was_reached(apache_site: Site) -> None:
    client = Client(apache_site)
    wish: dict[str, Any] = {"num_inference_steps": STEPS, "width": 128, "height": 128, "seed": 5, "guidance_scale": 5.0}
    with apache_site.worker("leaver", DRAIN_TIMEOUT_S="0", CHECKPOINT_JOBS="true") as leaver:
        client.request(job_id="moved", **wish)
        deadline = time.monotonic() + 60
        while counted(leaver, "sdxl_worker_steps_total") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert leaver.terminate() == 0
    assert not client.results
    with apache_site.worker("heir", CHECKPOINT_JOBS="true") as heir:
        assert client.one("moved").event.worker_id == "heir"
        passed = counted(heir, "sdxl_worker_resumed_steps_total")
        assert passed >= 3
        assert counted(heir, "sdxl_worker_steps_total") == STEPS - passed
        client.request(job_id="stayed", **wish)
        client.one("stayed")
        assert heir.terminate() == 0
    [resumed] = [line for line in log_lines(heir.log) if line["event"] == "job_resumed"]
    assert (resumed["job_id"], resumed["steps_done"]) == ("moved", passed)
    assert pixels(apache_site, "moved") == pixels(apache_site, "stayed")
    client.close()
