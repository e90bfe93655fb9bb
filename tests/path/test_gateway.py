"""The gateway on real Kafka and S3, asked with the curl lines of its page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devtools.local.process import ChildProcess, free_port
from tests.harness import Client, Site
from tests.path.test_hostile import stand_in

ROOT = Path(__file__).parent.parent.parent
PYTHON_TIMEOUT_S = 60.0


class Gateway:
    """One `python -m worker gateway`."""

    def __init__(self, site: Site, log: Path, **settings: str) -> None:
        self.port = free_port()
        environment = {**site.worker("gateway").environment, "GATEWAY_PORT": str(self.port), **settings}
        del environment["WORKER_ID"]
        self.child = ChildProcess("gateway", [sys.executable, "-m", "worker", "gateway"], log, environment)

    def __enter__(self) -> Gateway:
        self.child.start()
        self.child.wait_until(lambda: self.get("/ready")[0] == 200, PYTHON_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.child.stop()

    def stop(self) -> int | None:
        """SIGTERM, then the exit code."""
        self.child.stop(grace_s=30)
        return self.child.exit_code

    def curl(self, line: str) -> dict[str, Any]:
        """Run a line of the documentation as it stands, but for the port."""
        line = line.replace("localhost:8007", f"localhost:{self.port}")
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=30)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def get(self, path: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        command = ["curl", "-s", "-w", "\n%{http_code}", *arguments, f"http://localhost:{self.port}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        body, _, code = done.stdout.rpartition("\n")
        return int(code), json.loads(body) if body.startswith("{") else {}

    def wait_for(self, path: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PYTHON_TIMEOUT_S
        while not wanted(answer := self.get(path)[1]):
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        return answer


def curl_lines(page: str) -> list[str]:
    """The shell blocks of a page that are one curl command each."""
    return re.findall(r"```sh\n(curl .*?)\n```", page, re.DOTALL)


def test_the_curl_lines_of_the_page(apache_site: Site, tmp_path: Path) -> None:
    health, generate, status = curl_lines((ROOT / "docs" / "gateway.md").read_text())[:3]
    with (
        stand_in(apache_site, "worker", tmp_path),
        Gateway(apache_site, tmp_path / "one.log") as one,
        Gateway(apache_site, tmp_path / "two.log") as two,
    ):
        assert one.curl(health)["status"] == "healthy"
        queued = one.curl(generate)
        assert queued["status"] == "queued"
        job_id = queued["job_id"]
        done = one.wait_for(f"/status/{job_id}", lambda job: job["status"] == "completed")
        assert one.curl(re.sub(r"/status/\S+", f"/status/{job_id}", status)) == done
        assert done["image_url"].endswith(f"generated/test/{job_id}.jpg")
        # Another gateway says the same.
        assert two.wait_for(f"/status/{job_id}", lambda job: job.get("status") == "completed") == done
        key_makes_one_job(apache_site, one, two)
        other = one.curl(generate)["job_id"]
        last = one.wait_for(f"/status/{other}", lambda job: job["status"] == "completed")
        stream = subprocess.run(
            ["curl", "-sN", f"http://localhost:{one.port}/jobs/{other}/events"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert '"status":"completed"' in stream.stdout
        feed = subprocess.Popen(["curl", "-sN", f"http://localhost:{one.port}/events"], stdout=subprocess.PIPE)
        one.wait_for("/health", lambda health: health["streams"] == 1)
        # The feed of a gateway that stops ends, and does not keep it from stopping.
        assert one.stop() == 0
        assert feed.wait(20) == 0
        assert feed.communicate()[0]
        with Gateway(apache_site, tmp_path / "again.log") as again:
            assert again.get(f"/status/{other}") == (200, last)
            assert again.get("/queue")[1]["lanes"][2] == {"lane": "normal", "waiting": 0, "running": 0}
            # A job whose status has gone is looked up in S3.
            client = Client(apache_site)
            client.send(apache_site.topics.status, job_id.encode(), None)
            client.close()
            again.wait_for(f"/status/{job_id}", lambda job: "error" in job)
            found = again.get(f"/status/{job_id}?girl_id=test")[1]
            same = ("job_id", "status", "girl_id", "image_url", "thumbnail_url", "generation_time", "lane")
            assert {name: found[name] for name in same} == {name: done[name] for name in same}


def key_makes_one_job(site: Site, one: Gateway, two: Gateway) -> None:
    """A key means one job, whichever gateway is asked."""
    key = f"Idempotency-Key: {uuid.uuid4()}"
    body = {"girl_id": "test", "user_id": 1, "prompt": "a lighthouse"}

    def post(gateway: Gateway, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return gateway.get("/generate", "-H", key, "-H", "Content-Type: application/json", "-d", json.dumps(body))

    client = Client(site)
    code, first = post(one, body)
    assert code == 202
    two.wait_for(f"/status/{first['job_id']}", lambda job: "status" in job)
    code, second = post(two, body)
    assert (code, second["job_id"]) == (200, first["job_id"])
    assert post(two, body | {"prompt": "a forest"})[0] == 409
    client.one(first["job_id"])
    client.settle(0.5)
    assert len(client.of(first["job_id"])) == 1
    client.close()
